"""Preflight: the real command on one rank and on two, what the ranks find together, and the table."""

import shutil
from types import SimpleNamespace

import torch

from train.config.run_config import resolve_config
from train.distributed.topology import Topology
from train.failure import DivergedError
from train.preflight import checks as preflight_checks
from train.preflight.checks import Check, Facts, Warned
from train.preflight.preflight import Finding, PreflightError, compare_clocks, examine_alone, print_findings


def facts_of(tmp_path, *overrides, **fields):
    resolved = resolve_config("smoke", [f"output.dir={tmp_path / 'run'}", *overrides], {})
    return Facts(resolved, Topology(), **fields)


def test_a_run_that_would_work(run, tmp_path):
    finished = run("train", "smoke", "--preflight", f"output.dir={tmp_path / 'run'}")
    assert finished.returncode == 0, finished.stderr
    assert "13 ok" in finished.stdout
    assert "the run would start at step 0" in finished.stdout
    assert not (tmp_path / "run").exists()


def test_two_ranks_check_the_network_and_name_the_rank_that_fails(ranks, tmp_path):
    broken = tmp_path / "file"
    broken.touch()
    folders = [[f"output.dir={tmp_path / 'run'}"], [f"output.dir={broken / 'run'}"]]
    finished = ranks(2, "smoke", "--preflight", per_rank=folders)
    assert [process.returncode for process in finished] == [204, 204]
    out, error = finished[0].stdout, finished[0].stderr
    assert "all 2 ranks met" in out
    assert "Gbit/s" in out
    assert "'volume' on rank 1" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not finished[1].stdout


def test_an_earlier_run_stays_as_it_was(run, smoke_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(smoke_run, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    finished = run("train", "smoke", "--preflight", f"output.dir={folder}", "data.dataset=none.parquet")
    assert finished.returncode == 3
    assert "python -m data build" in finished.stderr.splitlines()[-1]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert before == after


def test_precision_off_by_too_much_is_refused(tmp_path, monkeypatch):
    assert "fp32" in preflight_checks.precision(facts_of(tmp_path))
    monkeypatch.setattr(preflight_checks, "pick_precision", lambda _: torch.float8_e5m2)
    finding = examine_alone(Check("precision", preflight_checks.precision), facts_of(tmp_path), [])
    assert finding.verdict == "failed"


def test_a_check_is_skipped_where_what_it_needs_failed(tmp_path):
    def fails(_):
        raise DivergedError("no", "Do that.")

    facts = facts_of(tmp_path)
    first = examine_alone(Check("first", fails), facts, [])
    assert (first.verdict, first.detail, first.remedy, first.exit_code) == ("failed", "no", "Do that.", 6)
    second = examine_alone(Check("second", lambda _: "fine", ("first",)), facts, [first])
    assert (second.verdict, second.detail) == ("skipped", "needs first")
    third = examine_alone(Check("third", lambda _: "fine"), facts, [first, second])
    assert third.verdict == "ok"
    assert PreflightError([first, second, third]).exit_code == 6


def test_clocks_apart_are_a_warning(monkeypatch):
    class Store(dict):
        def set(self, key, value):
            self[key] = value

    store = Store({"clock/1/told": "1000.0"})
    monkeypatch.setattr("train.preflight.preflight.time.time", lambda: 1010.0)
    ranks = SimpleNamespace(store=store, topology=Topology(rank=1, world_size=2))
    saw = compare_clocks(ranks)
    assert isinstance(saw, Warned)
    assert "+10.000 s against rank 0" in saw.detail
    store["clock/1/told"] = "1009.0"
    assert "+1.000 s" in compare_clocks(ranks)


def test_the_table_counts_the_verdicts(capsys):
    print_findings([Finding("a", "ok", "fine"), Finding("b", "warning", "hm [x]", "Do that.", rank=1)])
    out = capsys.readouterr().out
    assert "1 ok, 1 warning" in out
    assert "hm [x]. Do that." in out
