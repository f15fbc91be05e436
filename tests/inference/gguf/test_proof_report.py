"""The proof for people, and that there is none."""

from inference.gguf.proof_report import say_what_was_written

RESULT = {
    "llama_cpp": "xllamacpp 1", "reference": "transformers 5", "weights": "q8_0", "max_new_tokens": 64,
    "answers": [
        {"question": "Why?", "prompt_tokens": 20, "equal_tokens": 64, "reference_tokens": 64, "gap_nats": None},
        {"question": "How?", "prompt_tokens": 21, "equal_tokens": 7, "reference_tokens": 64, "gap_nats": 0.0125},
    ],
}  # fmt: skip


def test_each_question_has_how_far_the_answers_agree(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = tmp_path / "m.gguf"
    output.write_bytes(bytes(2_500_000))
    say_what_was_written(output, RESULT)
    said = capsys.readouterr().out
    rows = {line.split()[1]: line for line in said.splitlines() if "equal" in line and "?" in line}
    assert "64 of 64" in rows["Why?"]
    assert "none" in rows["Why?"]
    assert "0.013 nats apart" in rows["How?"] or "0.012 nats apart" in rows["How?"]
    assert f"{output}  2.5 MB" in said
    assert f"{output}.check.json  the proof" in said


def test_without_a_proof_that_is_the_first_thing_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "m.gguf").write_bytes(b"")
    say_what_was_written(tmp_path / "m.gguf", None)
    said = capsys.readouterr().out
    assert said.startswith("NOT CHECKED")
    assert "check.json" not in said
