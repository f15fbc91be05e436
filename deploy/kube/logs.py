"""The logs of a job's ranks are read here: one, or all with their lines as they come."""

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import repeat

from deploy.errors import ClusterError, DeployError, ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.meaning import pod_state
from deploy.kube.client import Cluster
from deploy.profile import Deployment

Numbered = Iterator[tuple[int, str]]


def rank_lines(cluster: Cluster, deployment: Deployment, rank: int, *, follow: bool, tail: int | None) -> Numbered:
    """Yield the lines of one rank, each with its rank.

    Raises:
        DeployError: there is no such pod, or it has not started.
    """
    pods = _pods(cluster, deployment)
    if rank not in pods:
        raise _no_pod(deployment, f"rank {rank}", pods)
    lines = cluster.log_lines(pods[rank], container=pytorchjob.CONTAINER, follow=follow, tail=tail)
    return zip(repeat(rank), lines, strict=False)


def all_lines(
    cluster: Cluster, deployment: Deployment, *, follow: bool, tail: int | None, say: Callable[[str], None]
) -> Numbered:
    """Yield the lines of all ranks, each with its rank; a pod that has not started is named and left out.

    Raises:
        DeployError: there is no pod at all, or none has started.
    """
    pods = _pods(cluster, deployment)
    if not pods:
        raise _no_pod(deployment, "any rank", pods)
    absent: list[ClusterError] = []

    def lines(pod: str) -> Iterator[str]:
        try:
            yield from cluster.log_lines(pod, container=pytorchjob.CONTAINER, follow=follow, tail=tail)
        except ClusterError as error:
            if error.exit_code != ExitCode.MISSING:
                raise
            absent.append(error)
            say(error.problem)

    yield from _merged({rank: lines(pods[rank]) for rank in sorted(pods)})
    if len(absent) == len(pods):
        raise absent[0]


def _pods(cluster: Cluster, deployment: Deployment) -> dict[int, str]:
    """Names of the job's pods by rank."""
    pods = cluster.items("Pod", labels=pytorchjob.pod_selector(deployment.profile.job))
    return {state.rank: state.name for state in map(pod_state, pods)}


def _no_pod(deployment: Deployment, wanted: str, pods: dict[int, str]) -> DeployError:
    there = f"ranks {', '.join(map(str, sorted(pods)))} are" if pods else "no pod is"
    return DeployError(
        f"there is no pod of {wanted} of job {deployment.profile.job}: {there} there",
        f"Pods of an ended job are gone when the job is; see: {deployment.command_line('status')}",
        exit_code=ExitCode.MISSING,
    )


def _merged(sources: dict[int, Iterator[str]]) -> Numbered:
    """Lines of all sources as they come, with the number of their source; errors come through too."""
    lines: queue.Queue[tuple[int, str | Exception | None]] = queue.Queue()

    def read(number: int, source: Iterator[str]) -> None:
        try:
            for line in source:
                lines.put((number, line))
            lines.put((number, None))
        except Exception as error:
            lines.put((number, error))

    for number, source in sources.items():
        # Daemons: Ctrl-C must not wait for a line of a rank that is silent.
        threading.Thread(target=read, args=(number, source), daemon=True).start()
    open_sources = len(sources)
    while open_sources:
        number, line = lines.get()
        if isinstance(line, Exception):
            raise line
        if line is None:
            open_sources -= 1
        else:
            yield number, line
