"""A pod's status as its kubelet writes it: pure functions over container states."""

from collections.abc import Sequence
from typing import Any

from tests.cluster.status import Object
from tests.cluster.store import now

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 10, 300


def backoff_seconds(restart_count: int) -> int:
    """How long the next restart waits, after so many of them: the first comes at once.

    >>> [backoff_seconds(count) for count in range(8)]
    [0, 10, 20, 40, 80, 160, 300, 300]
    """
    if restart_count == 0:
        return 0
    return min(FIRST_BACKOFF_SECONDS << (restart_count - 1), LONGEST_BACKOFF_SECONDS)


def container_status(container: Object, reason: str) -> Object:
    """A container that has not started yet."""
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason}},
        "lastState": {},
    }


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def running() -> Object:
    return {"running": {"startedAt": now()}}


def terminated(exit_code: int, started_at: str, *, message: str = "", out_of_memory: bool = False) -> Object:
    """
    >>> terminated(137, "2026-01-01T00:00:00Z", out_of_memory=True)["terminated"]["reason"]
    'OOMKilled'
    """
    reason = "OOMKilled" if out_of_memory else "Error" if exit_code else "Completed"
    ended = {"exitCode": exit_code, "reason": reason, "startedAt": started_at, "finishedAt": now()}
    return {"terminated": {**ended, **({"message": message} if message else {})}}


def phase_of(states: Sequence[Object], policy: str) -> str:
    """The phase that follows from the states of all containers.

    >>> phase_of([{"terminated": {"exitCode": 1}}], "OnFailure"), phase_of([{"terminated": {"exitCode": 1}}], "Never")
    ('Running', 'Failed')
    """
    codes = [state.get("terminated", {}).get("exitCode") for state in states]
    if any(code is None for code in codes):
        return "Running"
    if policy == "Always" or (policy == "OnFailure" and any(codes)):
        return "Running"
    return "Failed" if any(codes) else "Succeeded"


def restarts(exit_code: int, policy: str) -> bool:
    """Whether the kubelet starts a container again."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def conditions(*, is_scheduled: bool, is_ready: bool, why_not: str = "") -> list[Any]:
    scheduled: Object = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
    if not is_scheduled:
        scheduled |= {"status": "False", "reason": "Unschedulable", "message": why_not}
        return [scheduled]
    ready = "True" if is_ready else "False"
    return [scheduled, *({"type": type_, "status": ready} for type_ in ("Initialized", "Ready", "ContainersReady"))]
