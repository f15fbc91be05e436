"""The same losses and gradient norms, step by step, for any division of the effective batch. Through the command line.

27 rows and steps of 8: every epoch ends in a step of 3 rows, for which some ranks have no row at all.
"""

import statistics

import pytest

TOLERANCE = 1e-5
COMMON = (
    "smoke",
    "data.max_train_rows=27",
    "optim.scale_learning_rate=false",
    "output.demo=false",
    "speed.prefix_sharing=off",  # the plain path; tests/parity/test_fast_paths.py compares the others with it
    "speed.activation_cache=off",
)


def relative_drifts(one, other, name):
    assert [record["step"] for record in one] == [record["step"] for record in other]
    return [abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(one, other, strict=True)]


def assert_same(history, plain, divided):
    for kind, names in [("step", ("loss", "grad_norm", "learning_rate")), ("evaluation", ("loss",))]:
        for name in names:
            drifts = relative_drifts(history(plain, kind), history(divided, kind), name)
            assert max(drifts) <= TOLERANCE, (kind, name, drifts)
            assert statistics.mean(drifts) <= TOLERANCE / 2, (kind, name, drifts)


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    finished = run("train", *COMMON, f"output.dir={folder}", "optim.batch_size=8", "optim.accumulation_steps=1")
    assert finished.returncode == 0, finished.stderr
    return folder


def test_the_plain_run_has_the_steps_it_should(plain, history):
    steps = history(plain, "step")
    assert len(steps) == 2 * 4
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert len(history(plain, "evaluation")) == 3


def test_accumulation(run, plain, history, tmp_path):
    finished = run("train", *COMMON, f"output.dir={tmp_path}", "optim.batch_size=2", "optim.accumulation_steps=4")
    assert finished.returncode == 0, finished.stderr
    assert_same(history, plain, tmp_path)


def test_two_processes_by_the_launcher(run, plain, history, tmp_path):
    batch = ("optim.batch_size=2", "optim.accumulation_steps=2")
    finished = run("train", *COMMON, f"output.dir={tmp_path}", *batch, "--nproc", "2")
    assert finished.returncode == 0, finished.stderr
    assert_same(history, plain, tmp_path)


def test_four_ranks_as_the_operator_starts_them(ranks, plain, history, tmp_path):
    batch = ("optim.batch_size=2", "optim.accumulation_steps=1")
    finished = ranks(4, *COMMON, f"output.dir={tmp_path}", *batch)
    assert [process.returncode for process in finished] == [0, 0, 0, 0], finished[0].stderr
    assert [bool(process.stdout) for process in finished] == [True, False, False, False]
    assert_same(history, plain, tmp_path)
