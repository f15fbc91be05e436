"""What is shown of a job and when the watch ends; a cluster that breaks and pods that die are in `tests/drills`."""

import io

import pytest
from rich.console import Console

from deploy.errors import DeployError
from deploy.jobs.meaning import Snapshot
from deploy.kube.watch import Lines, Start, View, event_text, follow, screen, status_line, status_record
from deploy.profile import plan_deployment
from tests.deploy.jobs.objects import job, pod

SUPERVISED = plan_deployment("cpu-smoke", settings=["restart.policy=supervised", "restart.times=1"])
PROGRESS = {"phase": "training", "step": 1, "total_steps": 4, "percent": 25.0}


def failed(rank, code):
    ended = {"terminated": {"exitCode": code, "finishedAt": "10:00"}}
    return pod(rank, phase="Failed", containerStatuses=[{"name": "pytorch", "restartCount": 0, "state": ended}])


def event(message="two\nlines"):
    about = {"metadata": {}, "involvedObject": {"name": "j"}, "reason": "Why", "message": message}
    return {**about, "lastTimestamp": "2026-11-30T10:11:12Z"}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("deploy.kube.watch.time.sleep", lambda _: None)


class Answers:
    """A cluster that shows one snapshot after the other, the last for ever."""

    def __init__(self, *snapshots):
        self.snapshots = list(snapshots)

    def find(self, kind, name):
        if kind != "PyTorchJob":
            return None
        self.now = self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]
        return self.now.job

    def items(self, kind, *, labels):
        return self.now.pods

    def items_if_allowed(self, kind):
        return None

    def read_file(self, *_):
        return None


class Said(list):
    def show(self, view):
        self.append(status_line(view))

    def say(self, text):
        self.append(text)


def test_a_line_a_record_and_a_screen_of_the_same_job():
    pods = [pod(1, phase="Pending"), pod(0), pod(2, phase="Pending")]
    view = View("j", Snapshot(job("Created", "Running"), pods, [event()]), PROGRESS)
    assert status_line(view) == "Running; 1 Running, 2 Pending; training, step 1 of 4, 25 %"
    record = status_record(view)
    assert (record["phase"], record["exit_code"], record["outcome"]) == ("Running", None, None)
    assert [one["rank"] for one in record["pods"]] == [0, 1, 2]
    out = io.StringIO()
    Console(file=out, width=200).print(screen(view))
    assert out.getvalue().startswith("j  Running  training, step 1 of 4, 25 %")
    assert "10:11:12 j: Why: two lines" in out.getvalue()
    assert event_text(event()) == "10:11:12 j: Why: two lines"


def test_lines_say_what_has_changed():
    out = io.StringIO()
    with Lines(Console(file=out, width=200)) as lines:
        suspended = View("j", Snapshot(job("Suspended", suspend=True)))
        for view in (suspended, suspended, View("j", Snapshot(job("Running")))):
            lines.show(view)
    said = [line.partition(" ")[2] for line in out.getvalue().splitlines()]
    assert [said[0], said[2]] == ["Suspended; no pods yet", "Running; no pods yet"]
    assert said[1].startswith("! the job is suspended")


def test_a_retryable_failure_is_started_again_as_often_as_told():
    lost, cannot = Snapshot(job("Failed"), [failed(0, 204)]), Snapshot(job("Failed"), [failed(0, 2)])
    for last, code in ((lost, 204), (cannot, 2), (Snapshot(job("Succeeded"), [pod(0, phase="Succeeded")]), 0)):
        restarts, said = [], Said()
        ended = follow(Answers(lost, last), SUPERVISED, said, lambda to=restarts: to.append(1))
        assert (ended.exit_code, restarts) == (code, [1])
        assert any("starting it again, 0 more time(s) at most" in line for line in said)


def test_a_permanent_failure_is_not_started_again():
    said = Said()
    assert follow(Answers(Snapshot(job("Failed"), [failed(1, 3)])), SUPERVISED, said, pytest.fail).exit_code == 3
    assert len(said) == 1


def test_a_job_that_was_deleted_and_one_that_never_was():
    with pytest.raises(DeployError, match="there is no job fieldcraft-smoke in namespace fieldcraft") as caught:
        follow(Answers(Snapshot(None)), SUPERVISED, Said(), pytest.fail)
    assert caught.value.exit_code == 12
    with pytest.raises(DeployError, match="job fieldcraft-smoke was deleted"):
        follow(Answers(Snapshot(job("Running"), [pod(0)]), Snapshot(None)), SUPERVISED, Said(), pytest.fail)


def test_pods_that_do_not_start_in_time_are_given_up_with_the_reason():
    waiting = Snapshot(job("Created"), [pod(rank, phase="Pending") for rank in range(4)])
    with pytest.raises(DeployError, match="0 of 4 pods of job fieldcraft-smoke have started after 0 s: no reason"):
        follow(Answers(waiting), SUPERVISED, Said(), pytest.fail, start_seconds=0.0)
    start = Start(since=0.0, limit_seconds=0.0)
    start.check(SUPERVISED, Snapshot(job("Running"), [pod(rank) for rank in range(4)]))
    assert start.limit_seconds is None
