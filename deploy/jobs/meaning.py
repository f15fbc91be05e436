"""This file says in words what a job's objects mean: how its pods are, why it does not go on, how it ended.

Everything here is a function of plain API objects. Each explanation is one sentence and a remedy.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.errors import ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.names import QUEUE_LABEL
from train.failure import ExitCode as PodExitCode

Object = dict[str, Any]

PERMANENT_RESTARTS = 2
"""A container that ends this often with a permanent exit code will go on doing so."""
RETRYABLE_EXIT_CODE = 128
"""From here on Kubernetes' `ExitCode` policy, and train.failure with it, counts an exit as worth another try."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot holds all that is looked at, at one moment."""

    job: Object | None
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    claims: Sequence[Object] = ()


@dataclass(frozen=True)
class PodState:
    """This is a pod in short: a table shows `reason`; `exit_code` is of its last container that ended."""

    name: str
    rank: int
    phase: str
    reason: str
    restarts: int
    exit_code: int | None
    message: str
    node: str
    finished_at: str = ""
    ended_reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """This is how a job ended, or that it never will well; a command leaves with its `exit_code`."""

    exit_code: int
    sentence: str
    details: Sequence[str] = field(default=())


def pod_state(pod: Object) -> PodState:
    """Return what is said of a pod; a container's present life counts before the one it had."""
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    container = _main_container(status)
    ended = _ended(container)
    return PodState(
        name=str(metadata.get("name")),
        rank=pytorchjob.rank_of(pod),
        phase="Terminating" if metadata.get("deletionTimestamp") else str(status.get("phase", "Pending")),
        reason=_shown_reason(status, container),
        restarts=int(container.get("restartCount") or 0),
        exit_code=ended.get("exitCode"),
        message=" ".join(str(ended.get("message") or "").split()),
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        finished_at=str(ended.get("finishedAt") or ""),
        ended_reason=str(ended.get("reason") or ""),
    )


def _main_container(status: Object) -> Object:
    containers = status.get("containerStatuses") or []
    named = [one for one in containers if one.get("name") == pytorchjob.CONTAINER]
    return next(iter([*named, *containers]), {})


def _ended(container: Object) -> Object:
    """The end of the container's present life, else of the one before."""
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if state.get("terminated"):
            return dict(state["terminated"])
    return {}


def _shown_reason(status: Object, container: Object) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    terminated = (container.get("state") or {}).get("terminated") or {}
    unscheduled = "Unschedulable" if _unschedulable(status) else ""
    initializing = "" if container.get("started") or status.get("phase") != "Pending" else _init_reason(status)
    return str(
        status.get("reason") or unscheduled or initializing or waiting.get("reason") or terminated.get("reason") or ""
    )


def _init_reason(status: Object) -> str:
    for one in status.get("initContainerStatuses") or []:
        state = one.get("state") or {}
        if "running" in state:
            return "Init"
        if (state.get("waiting") or {}).get("reason") not in (None, "PodInitializing"):
            return str(state["waiting"]["reason"])
    return ""


def _unschedulable(status: Object) -> str:
    """The scheduler's message, if it finds no node."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


def explanations(snapshot: Snapshot) -> list[str]:
    """Return why the job does not go on, a sentence each; pods in the same trouble share one."""
    by_sentence: dict[str, list[str]] = {}
    for pod in sorted(snapshot.pods, key=lambda pod: pod_state(pod).rank):
        for sentence in _pod_explanations(pod, snapshot.events):
            by_sentence.setdefault(sentence, []).append(pod["metadata"]["name"])
    return [
        *_job_explanations(snapshot),
        *(sentence for claim in snapshot.claims for sentence in _claim_explanations(claim, snapshot.events)),
        *(f"{', '.join(names)}: {sentence}" for sentence, names in by_sentence.items()),
    ]


def _job_explanations(snapshot: Snapshot) -> Iterator[str]:
    job = snapshot.job
    if job is None or pytorchjob.phase_of(job) in pytorchjob.FINISHED:
        return
    name = job["metadata"]["name"]
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    suspended = pytorchjob.is_suspended(job)
    if queue and suspended:
        yield (
            f"Kueue holds the job back until its queue '{queue}' has room. Wait, or look at what is ahead: "
            "kubectl get workloads; a smaller job starts sooner."
        )
    elif suspended or pytorchjob.phase_of(job) == "Suspended":
        yield f"the job is suspended. Let it go on: {pytorchjob.resume_command(name)}"
    refused = _last_event(snapshot.events, name, "FailedCreatePod")
    if refused and len(snapshot.pods) < pytorchjob.replica_count(job):
        yield f"{_refused_pod(refused)}"


def _refused_pod(message: str) -> str:
    if "exceeded quota" in message:
        return (
            f"quota exceeded, so pods cannot be created ({message}). Lower the profile's resources or pods, "
            "delete what is not needed, or ask for more quota."
        )
    return f"pods cannot be created ({message}). Change the profile, or ask who runs the cluster."


def _claim_explanations(claim: Object, events: Sequence[Object]) -> Iterator[str]:
    name, status = claim["metadata"]["name"], claim.get("status") or {}
    if status.get("phase") == "Lost":
        yield f"the volume behind {name} is gone. Delete the claim, and apply again."
    if status.get("phase") != "Pending" or _last_event(events, name, "WaitForFirstConsumer"):
        return
    wanted = (claim.get("spec") or {}).get("storageClassName")
    failed = _last_event(events, name, "ProvisioningFailed")
    cause = f" ({failed})" if failed else ""
    source = f"storage class '{wanted}'" if wanted else "the default storage class"
    yield (
        f"volume claim {name} is pending: {source} gives it no volume{cause}. "
        "Choose a class and access mode that exist (kubectl get storageclass) in the profile, delete the claim, "
        "apply again."
    )


def _last_event(events: Sequence[Object], name: str, *reasons: str) -> str:
    """The message of the newest event about an object, '' if there is none."""
    matching = [
        event
        for event in events
        if (event.get("involvedObject") or {}).get("name") == name and event.get("reason") in reasons
    ]
    return " ".join(str(matching[-1].get("message", "")).split()) if matching else ""


def _pod_explanations(pod: Object, events: Sequence[Object]) -> Iterator[str]:
    status, state = pod.get("status") or {}, pod_state(pod)
    if status.get("phase") == "Succeeded":
        return
    if status.get("reason") == "Evicted":
        cause = " ".join(str(status.get("message", "no message")).split()).rstrip(".")
        yield (
            f"evicted by its node ({cause}). The operator makes a new one; if it happens again, "
            "raise resources.memory or resources.scratch in the profile."
        )
        return
    unscheduled = _unschedulable(status)
    # Scheduling comes before all else: a pod without a node has no container states, mounts or exit codes.
    if unscheduled:
        yield _explain_unschedulable(unscheduled)
        return
    for waiting in _waiting_states(status):
        sentence = _explain_waiting(str(waiting.get("reason", "")), str(waiting.get("message") or ""), state)
        if sentence:
            yield sentence
            return
    mount = _last_event(events, state.name, "FailedMount", "FailedAttachVolume")
    if mount and status.get("phase") == "Pending":
        yield _explain_mount(mount)
    elif state.ended_reason == "OOMKilled":
        yield _OUT_OF_MEMORY


_OUT_OF_MEMORY = (
    "killed for using more memory than its limit (OOMKilled). Raise resources.memory in the profile "
    "(/dev/shm counts too), or lower optim.batch_size."
)


def _waiting_states(status: Object) -> Iterator[Object]:
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (one.get("state") or {}).get("waiting")
        if waiting:
            yield {"message": "", **waiting}


def _explain_unschedulable(message: str) -> str:
    """The scheduler's message with what to do about the first cause that we know."""
    known = (
        (r"Insufficient \S*gpu", "no node has enough free GPUs", "Wait for one, or use fewer pods (another recipe)."),
        (r"Insufficient (memory|cpu|ephemeral-storage)", "no node has enough free memory, processors or disk",
         "Lower resources in the profile."),
        (r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim .* not found", "its volume is not there yet",
         "Look at the claims: kubectl get pvc."),
        (r"volume node affinity conflict|Multi-Attach", "its volume can only be used on another node",
         "Wait until the pod there is gone, or use a ReadWriteMany volume."),
        (r"node affinity|node selector", "no node has the labels of node_selector",
         "Compare with `kubectl get nodes --show-labels` and change the profile."),
        (r"untolerated taint|had taint", "the nodes that would do are tainted",
         "Add the taint to the profile's tolerations."),
    )  # fmt: skip
    for pattern, cause, remedy in known:
        if re.search(pattern, message, re.IGNORECASE):
            return f"unschedulable, {cause} ({message.rstrip('.')}). {remedy}"
    return f"unschedulable ({message.rstrip('.')}). Compare the profile with what the nodes have."


def _explain_waiting(reason: str, message: str, state: PodState) -> str:
    cause = f" ({' '.join(message.split())})" if message else ""
    if reason in ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"):
        return (
            f"the image cannot be pulled, {reason}{cause}. Check its name and that it was pushed; a private registry "
            "needs image_pull_secrets in the profile."
        )
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return f"the container cannot be created, {reason}{cause}. A Secret or key of the profile may be missing."
    if reason == "CrashLoopBackOff":
        if state.ended_reason == "OOMKilled":
            return _OUT_OF_MEMORY
        why = f": {state.message}" if state.message else f"; see: python -m deploy logs PROFILE --rank {state.rank}"
        return f"ended {state.restarts} time(s), last with exit {state.exit_code}, and waits to be started again{why}"
    return ""


def _explain_mount(message: str) -> str:
    if "Multi-Attach" in message or "already used by" in message:
        return (
            f"its volume is still attached to another node ({message}). Wait until the pod there is gone; "
            "do not delete that pod by force."
        )
    return f"a volume cannot be mounted ({message}). Look at the claim, or at the Secret it names."


def outcome(job: Object | None, pods: Sequence[Object]) -> Outcome | None:
    """Return how the job ended, None while it goes on; one whose pods fail for good has ended, though it restarts."""
    phase, states = pytorchjob.phase_of(job), [pod_state(pod) for pod in pods]
    if phase == "Succeeded":
        return Outcome(ExitCode.DONE, "the job succeeded")
    if phase == "Failed":
        cause = first_cause(states)
        if cause is None or not cause.exit_code:
            return Outcome(
                ExitCode.JOB_FAILED, f"the job failed: {pytorchjob.failure_message(job) or 'no reason given'}"
            )
        return Outcome(cause.exit_code, f"the job failed: {_ended_sentence(cause)}")
    # OnFailure starts a container again whatever its exit code, so the job alone would never say it failed.
    hopeless = [s for s in states if s.restarts >= PERMANENT_RESTARTS and 0 < (s.exit_code or 0) < RETRYABLE_EXIT_CODE]
    cause = first_cause(hopeless)
    if cause is None or cause.exit_code is None:
        return None
    return Outcome(
        cause.exit_code,
        f"the job cannot work: {_ended_sentence(cause)}",
        (f"It failed {cause.restarts} times alike and is still restarted: correct it and apply --replace, or delete.",),
    )


def first_cause(states: Sequence[PodState]) -> PodState | None:
    """Return the pod that failed first of itself: not one that merely lost its peer or was stopped."""
    failed = [state for state in states if state.exit_code]
    # A lost rank takes the others along within seconds: their 203 says nothing of the cause.
    of_itself = [state for state in failed if state.exit_code not in (PodExitCode.PEER, PodExitCode.STOPPED)]
    return min(of_itself or failed, key=lambda state: (state.finished_at, state.rank), default=None)


def _ended_sentence(state: PodState) -> str:
    why = _OUT_OF_MEMORY if state.ended_reason == "OOMKilled" else state.message
    return f"{state.name} (rank {state.rank}) ended with exit {state.exit_code}{f': {why}' if why else ''}"
