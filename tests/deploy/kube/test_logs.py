"""Whose lines are read, and what is said where there are none; connections that break are in `tests/drills`."""

import pytest

from deploy.errors import ClusterError, DeployError, ExitCode
from deploy.kube.logs import all_lines, rank_lines
from deploy.profile import plan_deployment
from tests.deploy.jobs.objects import pod

DEPLOYMENT = plan_deployment("cpu-smoke")


class PodsAndLogs:
    """A cluster of pods whose logs are given; a pod without one has not started."""

    def __init__(self, logs):
        self.logs = logs
        self.selectors = []

    def items(self, kind, *, labels):
        assert kind == "Pod"
        self.selectors.append(labels)
        return [pod(rank) for rank in range(len(self.logs))]

    def log_lines(self, name, *, container, follow, tail):
        assert (container, follow) == ("pytorch", False)
        lines = self.logs[["j-master-0", "j-worker-0", "j-worker-1"].index(name)]
        if lines is None:
            raise ClusterError(f"there is no log yet: {name}", exit_code=ExitCode.MISSING)
        yield from lines[-tail:] if tail else lines


def test_lines_of_one_rank():
    cluster = PodsAndLogs([["a"], ["b", "c"]])
    assert list(rank_lines(cluster, DEPLOYMENT, 1, follow=False, tail=None)) == [(1, "b"), (1, "c")]
    assert list(rank_lines(cluster, DEPLOYMENT, 1, follow=False, tail=1)) == [(1, "c")]
    assert cluster.selectors[0] == "training.kubeflow.org/job-name=fieldcraft-smoke"
    with pytest.raises(DeployError, match="no pod of rank 2 of job fieldcraft-smoke: ranks 0, 1 are there") as caught:
        rank_lines(cluster, DEPLOYMENT, 2, follow=False, tail=None)
    assert caught.value.exit_code == 12


def test_lines_of_all_ranks_and_a_pod_that_has_not_started():
    said = []
    lines = all_lines(PodsAndLogs([["a"], None, ["b"]]), DEPLOYMENT, follow=False, tail=None, say=said.append)
    assert sorted(lines) == [(0, "a"), (2, "b")]
    assert said == ["there is no log yet: j-worker-0"]


@pytest.mark.parametrize("logs", [[], [None, None]])
def test_without_any_log_all_is_an_error(logs):
    with pytest.raises(DeployError) as caught:
        list(all_lines(PodsAndLogs(logs), DEPLOYMENT, follow=False, tail=None, say=lambda _: None))
    assert caught.value.exit_code == 12


def test_an_error_on_the_way_comes_through():
    def broken(*_, **__):
        yield "a"
        raise ClusterError("gone", exit_code=ExitCode.UNREACHABLE)

    cluster = PodsAndLogs([["a"]])
    cluster.log_lines = broken
    lines = all_lines(cluster, DEPLOYMENT, follow=False, tail=None, say=lambda _: None)
    assert next(lines) == (0, "a")
    with pytest.raises(ClusterError, match="gone"):
        next(lines)
