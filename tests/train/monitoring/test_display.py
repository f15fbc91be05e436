from train.monitoring.display import LineDisplay, describe


def test_lines_for_logs(capsys):
    entry = {
        "kind": "step",
        "step": 2,
        "total_steps": 8,
        "percent": 25.0,
        "loss": 1.0,
        "perplexity": 2.718,
        "learning_rate": 1e-4,
        "grad_norm": 0.5,
        "rows_per_second": 3.0,
        "tokens_per_second": 1234.0,
        "memory_bytes": 2**30,
        "seconds_left": 75.0,
    }
    display = LineDisplay(every_steps=2)
    display.show(entry)
    display.show({**entry, "step": 3})
    out = capsys.readouterr().out
    assert out == describe(entry) + "\n"
    assert out.startswith("step 2/8  25.0 %  loss 1.0000  ppl 2.72  lr 1.00e-04  grad 0.500  3.00 rows/s  1,234 tok/s")
    assert "\r" not in out
    assert out.endswith("1.0 GiB  1 min 15 s left\n")
