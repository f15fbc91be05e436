"""Failures as a user meets them: `python -m deploy` says the right sentence and leaves with the right exit code.

Here all that happens before a job runs; `test_watch.py` and `test_fetch.py` have the rest.
"""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.kinds import CLAIM, JOB, NETWORK_POLICY, POD
from tests.drills.conftest import deploy_command

NAMESPACE, NAME, CLAIM_NAME = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-output"
IMAGE = "localhost/fieldcraft:dev"
CLEANUP = Path(__file__).parents[2] / "deploy/cleanup.sh"
SECONDS = 200
USAGE, UNREACHABLE, FORBIDDEN, MISSING, CONFLICT, INTERRUPTED = 2, 10, 11, 12, 13, 130


@pytest.fixture(autouse=True)
def _no_pod_starts(cluster):
    """What is tried here ends before pods do anything; those of a training would take the processor."""
    cluster.backend.missing_images.add(IMAGE)


def jobs_created(cluster):
    return cluster.wait_until(lambda: ("POST", "pytorchjobs") in last_parts(cluster), SECONDS, "for the job's request")


def last_parts(cluster):
    """Methods and last parts of the paths that were asked for."""
    return [(method, path.partition("?")[0].rpartition("/")[2]) for method, path in cluster.server.requests]


def interrupted(process):
    """Its output after Ctrl-C; it must leave with 130, without a traceback."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == INTERRUPTED, output
    assert "Traceback" not in output
    return output


def test_no_definition(cluster, deploy):
    cluster.remove_definition()
    ended = deploy("apply", "cpu-smoke")
    assert ended.returncode == MISSING
    assert "the CRD pytorchjobs.kubeflow.org is missing" in ended.stderr


def test_forbidden(cluster, deploy):
    cluster.forbid("create", "pytorchjobs")
    ended = deploy("apply", "cpu-smoke")
    assert ended.returncode == FORBIDDEN
    assert 'cannot create resource "pytorchjobs"' in ended.stderr
    assert not cluster.select(JOB)


def test_api_server_is_not_there(cluster, deploy):
    cluster.go_down()
    ended = deploy("status", "cpu-smoke")
    assert ended.returncode == UNREACHABLE
    assert "cannot be reached" in ended.stderr


def test_bad_setting_ends_before_the_cluster_is_asked(cluster, deploy):
    ended = deploy("apply", "cpu-smoke", "--set", "optim.epoch=1")
    assert ended.returncode == USAGE
    assert "epochs" in ended.stderr  # the nearest known key
    assert cluster.server.requests == []


def test_one_apply_after_the_other(cluster, deploy):
    assert deploy("apply", "cpu-smoke").returncode == 0
    ended = deploy("apply", "cpu-smoke", "--set", "optim.epochs=9")
    assert ended.returncode == CONFLICT
    assert len(cluster.select(JOB)) == 1


def test_two_applies_at_the_very_same_moment(cluster, start):
    """Both find no job and ask for one; the cluster lets both requests in together."""
    cluster.let_meet("create", "pytorchjobs", 2)
    both = [start("apply", "cpu-smoke", "--set", f"optim.epochs={epochs}") for epochs in (3, 9)]
    outputs = [process.communicate(timeout=SECONDS)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, CONFLICT], outputs
    loser = outputs[0 if both[0].returncode else 1]
    assert f"job {NAME} was created by someone else at this very moment" in loser
    assert len(cluster.select(JOB)) == 1


def test_hints_repeat_what_was_given(cluster, deploy):
    given = ("--set", "optim.epochs=9", "--namespace", "default", "--context", "local")
    applied = deploy("apply", "cpu-smoke", *given)
    hint = f"python -m deploy watch cpu-smoke {' '.join(given)}"
    assert f"follow it: {hint}" in applied.stderr, applied.stderr
    watched = deploy("watch", "cpu-smoke", "--namespace", "lyric-professor")
    assert watched.returncode == MISSING
    assert "Start it: python -m deploy apply cpu-smoke --namespace lyric-professor" in watched.stderr


class TestCtrlC:
    """Ctrl-C in each phase of a command: what is said to be there is there."""

    def test_while_it_looks(self, cluster, start):
        cluster.fail("get", "pytorchjobs", 503, times=1000)
        applying = start("apply", "cpu-smoke")
        cluster.wait_until(lambda: ("GET", NAME) in last_parts(cluster), SECONDS)
        assert "nothing was changed" in interrupted(applying)
        assert not cluster.select(CLAIM)

    def test_while_it_creates(self, cluster, start, deploy):
        cluster.let_meet("create", "pytorchjobs", 2)  # the request hangs
        applying = start("apply", "cpu-smoke")
        jobs_created(cluster)
        said = interrupted(applying)
        there = f"created and there: PersistentVolumeClaim/{CLAIM_NAME}, NetworkPolicy/{NAME}"
        assert f"{there}; not certain: PyTorchJob/{NAME}. `status` shows it, the same `apply` goes on" in said
        assert [len(cluster.select(kind, NAMESPACE)) for kind in (CLAIM, NETWORK_POLICY, JOB)] == [1, 1, 0]
        cluster.let_meet("create", "pytorchjobs", 1)
        assert deploy("apply", "cpu-smoke").returncode == 0
        assert len(cluster.select(JOB)) == 1

    def test_while_it_waits_for_the_old_pods(self, cluster, start, deploy):
        assert deploy("apply", "cpu-smoke").returncode == 0
        cluster.forbid("create", "pytorchjobs")  # should it get that far, it fails otherwise
        cluster.fail("list", "pods", 503, times=1000)
        applying = start("apply", "cpu-smoke", "--replace", "--yes", "--set", "optim.epochs=9")
        cluster.wait_until(lambda: not cluster.select(JOB), SECONDS)
        said = interrupted(applying)
        assert f"not certain: PyTorchJob/{NAME} (the one before it is being deleted)" in said
        assert not cluster.select(JOB)

    def test_when_it_asks(self, cluster, deploy):
        assert deploy("apply", "cpu-smoke").returncode == 0
        before = cluster.select(JOB)[0]["metadata"]["uid"]
        terminal, end = pty.openpty()
        options = deploy_command(cluster, "apply", "cpu-smoke", "--replace") | {"stdin": end}
        with subprocess.Popen(**options, stdout=end, stderr=subprocess.PIPE, start_new_session=True) as applying:
            os.close(end)
            for line in applying.stderr:
                if "replace  PyTorchJob" in line:
                    break
            time.sleep(0.5)  # the question ends without a line
            said = interrupted_stderr(applying)
        os.close(terminal)
        assert "nothing was changed" in said
        assert cluster.select(JOB)[0]["metadata"]["uid"] == before

    @pytest.mark.parametrize(("command", "said"), [("preflight", "nothing was changed"), ("status", "nothing was")])
    def test_while_a_command_reads(self, cluster, start, command, said):
        cluster.fail("*", "*", 503, times=1000)
        running = start(command, "cpu-smoke")
        cluster.wait_until(lambda: len(cluster.server.requests) > 1, SECONDS)
        assert said in interrupted(running)

    def test_while_delete_waits(self, cluster, start, deploy):
        assert deploy("apply", "cpu-smoke").returncode == 0
        cluster.fail("list", "pods", 503, times=1000)
        deleting = start("delete", "cpu-smoke", "--yes")
        cluster.wait_until(lambda: not cluster.select(JOB), SECONDS)
        assert "deletion was asked for and goes on" in interrupted(deleting)


def interrupted_stderr(process):
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(SECONDS) == INTERRUPTED, said
    assert "Traceback" not in said
    return said


def test_log_of_a_pod_that_has_not_started(cluster, deploy):
    assert deploy("apply", "cpu-smoke", "--set", "pods=2").returncode == 0
    cluster.wait_until(lambda: cluster.events(NAMESPACE, "Failed"), SECONDS)
    one = deploy("logs", "cpu-smoke")
    assert one.returncode == MISSING
    assert f'there is no log yet: container "pytorch" in pod "{NAME}-master-0" is waiting to start' in one.stderr
    assert "status" in one.stderr
    every = deploy("logs", "cpu-smoke", "--all")
    assert every.returncode == MISSING
    assert f'pod "{NAME}-worker-0" is waiting to start' in every.stderr
    absent = deploy("logs", "cpu-smoke", "--rank", "7")
    assert absent.returncode == MISSING
    assert f"there is no pod of rank 7 of job {NAME}: ranks 0, 1 are there" in absent.stderr


def test_cleanup_script_takes_the_job_and_leaves_the_volume(cluster, deploy):
    def clean(*options):
        command = [CLEANUP, "--profile", "cpu-smoke", "--yes", *options]
        return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=SECONDS)

    assert deploy("apply", "cpu-smoke").returncode == 0
    elsewhere = clean("--namespace", "default")
    assert (elsewhere.returncode, f"there was no job {NAME}" in elsewhere.stderr) == (0, True), elsewhere.stderr
    assert cluster.select(JOB)
    cleaned = clean("--context", "local", "--set", "pods=4")
    assert cleaned.returncode == 0, cleaned.stderr
    assert f"job {NAME} is deleted; its volumes stay" in cleaned.stderr
    assert [len(cluster.select(kind, NAMESPACE)) for kind in (JOB, POD, NETWORK_POLICY, CLAIM)] == [0, 0, 0, 1]
    again = clean()
    assert (again.returncode, f"there was no job {NAME}" in again.stderr) == (0, True)
