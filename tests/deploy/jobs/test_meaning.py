"""What objects mean in words: each trouble its sentence and remedy, each end its exit code."""

from typing import Any

import pytest

from deploy.jobs.meaning import Snapshot, explanations, outcome, pod_state
from tests.deploy.jobs.objects import job, pod


def container(*, restarts: int = 0, last: dict[str, Any] | None = None, **state: Any) -> dict[str, Any]:
    status = {"name": "pytorch", "restartCount": restarts, "state": state}
    return {"containerStatuses": [{**status, **({"lastState": {"terminated": last}} if last else {})}]}


def ended(code: int, at: str = "10:00", **more: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": at, **more}}


def event(about: str, reason: str, message: str) -> dict[str, Any]:
    return {"metadata": {}, "involvedObject": {"name": about}, "reason": reason, "message": message}


def unschedulable(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[condition])


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(phase="Pending", **container(waiting={"reason": reason, "message": message}))


CLAIM = {"metadata": {"name": "c"}, "spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}}

TROUBLES: dict[str, tuple[Snapshot, str, str]] = {
    "no GPU": (
        Snapshot(job(), [unschedulable("0/5 nodes are available: 5 Insufficient nvidia.com/gpu.")]),
        "no node has enough free GPUs",
        "use fewer pods",
    ),
    "no memory": (Snapshot(job(), [unschedulable("2 Insufficient memory.")]), "free memory", "Lower resources"),
    "node labels": (
        Snapshot(job(), [unschedulable("3 node(s) didn't match Pod's node affinity/selector.")]),
        "no node has the labels",
        "--show-labels",
    ),
    "taints": (Snapshot(job(), [unschedulable("2 node(s) had untolerated taint {a: b}.")]), "tainted", "tolerations"),
    "unbound volume": (
        Snapshot(job(), [unschedulable("pod has unbound immediate PersistentVolumeClaims.")]),
        "its volume is not there yet",
        "kubectl get pvc",
    ),
    "other scheduling trouble": (Snapshot(job(), [unschedulable("something new")]), "something new", "Compare"),
    "image": (Snapshot(job(), [waiting("ImagePullBackOff", "not found")]), "cannot be pulled", "image_pull_secrets"),
    "secret": (Snapshot(job(), [waiting("CreateContainerConfigError", 'secret "s"')]), 'secret "s"', "Secret or key"),
    "evicted": (
        Snapshot(job(), [pod(phase="Failed", reason="Evicted", message="node low on memory.")]),
        "evicted by its node (node low on memory)",
        "resources.memory",
    ),
    "out of memory": (
        Snapshot(job(), [pod(**container(restarts=1, last=ended(137, reason="OOMKilled")["terminated"], running={}))]),
        "(OOMKilled)",
        "Raise resources.memory",
    ),
    "crash loop": (
        Snapshot(
            job(), [pod(**container(restarts=4, last=ended(3)["terminated"], waiting={"reason": "CrashLoopBackOff"}))]
        ),
        "ended 4 time(s), last with exit 3",
        "python -m deploy logs PROFILE --rank 1",
    ),
    "attached elsewhere": (
        Snapshot(job(), [pod(phase="Pending")], [event("j-worker-0", "FailedAttachVolume", "Multi-Attach error")]),
        "still attached to another node",
        "do not delete that pod by force",
    ),
    "mount": (
        Snapshot(job(), [pod(phase="Pending")], [event("j-worker-0", "FailedMount", "secret not found")]),
        "a volume cannot be mounted (secret not found)",
        "Look at the claim",
    ),
    "Kueue": (Snapshot(job("Suspended", suspend=True, queue="q")), "queue 'q' has room", "kubectl get workloads"),
    "suspended": (Snapshot(job("Suspended", suspend=True)), "the job is suspended", "kubectl patch pytorchjob j"),
    "quota": (
        Snapshot(
            job("Created"), [], [event("j", "FailedCreatePod", 'pods "j-worker-1" is forbidden: exceeded quota: g')]
        ),
        "quota exceeded",
        "ask for more quota",
    ),
    "pods refused": (Snapshot(job(), [], [event("j", "FailedCreatePod", "denied")]), "(denied)", "Change the profile"),
    "claim": (
        Snapshot(job(), [], [event("c", "ProvisioningFailed", "no such class")], [CLAIM]),
        "storage class 'fast' gives it no volume (no such class)",
        "kubectl get storageclass",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_has_its_sentence_and_remedy(name):
    snapshot, cause, remedy = TROUBLES[name]
    said = explanations(snapshot)
    assert len(said) == 1
    assert cause in said[0]
    assert remedy in said[0]


def test_pods_in_the_same_trouble_share_a_sentence():
    pods = [unschedulable("5 Insufficient nvidia.com/gpu."), pod(2, phase="Pending")]
    pods[1]["status"] = pods[0]["status"]
    assert explanations(Snapshot(job(), pods))[0].startswith("j-worker-0, j-worker-1: unschedulable")


def test_nothing_is_said_of_what_goes_well():
    waits = event("c", "WaitForFirstConsumer", "waiting for first consumer")
    snapshot = Snapshot(job("Created", "Running"), [pod(0, **container(running={}))], [waits], [CLAIM])
    assert explanations(snapshot) == []


def test_a_job_that_goes_on_has_no_outcome():
    assert outcome(job("Running"), [pod(0, **container(running={}))]) is None
    assert outcome(job("Running"), [pod(0, **container(restarts=5, last=ended(203)["terminated"], running={}))]) is None


def test_the_end_is_told_by_the_first_that_failed_of_itself():
    pods = [
        pod(0, phase="Failed", **container(**ended(203, "10:00"))),
        pod(1, phase="Failed", **container(**ended(3, "10:01", message="bad row\n4"))),
        pod(2, phase="Failed", **container(**ended(203, "10:02"))),
    ]
    found = outcome(job("Failed"), pods)
    assert found is not None
    assert found.exit_code == 3
    assert found.sentence == "the job failed: j-worker-0 (rank 1) ended with exit 3: bad row 4"


def test_out_of_memory_is_said_in_words():
    found = outcome(job("Failed"), [pod(2, phase="Failed", **container(**ended(137, reason="OOMKilled")))])
    assert found is not None
    assert found.exit_code == 137
    assert "Raise resources.memory" in found.sentence


def test_a_failed_job_without_pods_gives_its_own_reason():
    found = outcome(job("Failed", message="backoff limit reached"), [])
    assert found is not None
    assert (found.exit_code, found.sentence) == (14, "the job failed: backoff limit reached")


def test_a_permanent_failure_ends_the_watch_though_the_job_restarts():
    last = ended(2, message="unknown key")["terminated"]
    once, twice = (pod(0, **container(restarts=count, last=last, running={})) for count in (1, 2))
    assert outcome(job("Running"), [once]) is None
    found = outcome(job("Running"), [twice])
    assert found is not None
    assert found.exit_code == 2
    assert "unknown key" in found.sentence


def test_pod_state_of_a_pod_that_has_not_begun():
    state = pod_state(pod(3, phase="Pending"))
    assert (state.rank, state.phase, state.restarts, state.exit_code) == (3, "Pending", 0, None)
