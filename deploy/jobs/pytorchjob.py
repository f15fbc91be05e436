"""Here a run becomes a PyTorchJob, the kind of Kubeflow's training operator v1, and here such a job is read.

Functions of plain objects. What the operator refuses or never ends is in `deploy.jobs.pytorchjob_rules`.
"""

from typing import Any

from deploy.jobs.names import QUEUE_LABEL, Manifest, labels
from deploy.jobs.pod_rules import Operator
from deploy.jobs.pods import pod
from deploy.profile import ClusterProfile, Deployment

Object = dict[str, Any]

KIND = "PyTorchJob"
GROUP, PLURAL = "kubeflow.org", "pytorchjobs"
API_VERSION = f"{GROUP}/v1"
CONTAINER = "pytorch"
JOB_LABEL = "training.kubeflow.org/job-name"
ROLE_LABEL = "training.kubeflow.org/replica-type"
INDEX_LABEL = "training.kubeflow.org/replica-index"
FINISHED = ("Succeeded", "Failed")
SECONDS_PER_DAY = 86_400

NOT_SERVED = f"the cluster knows no {KIND}: the CRD {PLURAL}.{GROUP} is missing"
INSTALL = "Install the Kubeflow training operator v1, or on OpenShift AI (up to 3.5) enable trainingoperator."
INSTALL_BY_VERSION = (
    "Install the Kubeflow training operator v1; on OpenShift AI enable trainingoperator (2.x up to 3.5; 3.6 removed it)"
)

OPERATOR = Operator(
    container=CONTAINER,
    variables=frozenset(
        (
            "PYTHONUNBUFFERED", "MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE", "RANK", "LOCAL_RANK", "PET_MASTER_PORT",
            "PET_MASTER_ADDR", "PET_NPROC_PER_NODE", "PET_NNODES", "PET_NODE_RANK",
        )
    ),
    port=23456,
    port_name="pytorchjob-port",
)  # fmt: skip
"""It appends these variables to every container; LOCAL_RANK it does not, but one value cannot fit all."""


def pytorch_job(deployment: Deployment) -> Manifest:
    """Return the job of a deployment: one master, and the other pods as workers."""
    profile = deployment.profile
    by_role: Manifest = {"Master": _replica(deployment, 1, is_master=True)}
    if profile.pods > 1:
        by_role["Worker"] = _replica(deployment, profile.pods - 1, is_master=False)
    queue = {QUEUE_LABEL: profile.queue} if profile.queue else {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": profile.job,
            "namespace": profile.namespace,
            "labels": {**labels(profile, "training"), **queue},
        },
        "spec": {
            # Not "auto", which is the number of processors where there is no GPU.
            "nprocPerNode": str(max(1, profile.gpu.count)),
            "runPolicy": _run_policy(profile),
            "pytorchReplicaSpecs": by_role,
        },
    }


def _run_policy(profile: ClusterProfile) -> Manifest:
    policy: Manifest = {
        "cleanPodPolicy": "Running",  # None would leave the peers of a failed rank holding their GPUs
        "ttlSecondsAfterFinished": profile.ttl_days * SECONDS_PER_DAY,
    }
    if profile.restart.policy == "hands-off":
        # It counts restarts summed over all pods, and one lost rank makes all of them restart.
        policy["backoffLimit"] = profile.restart.times * profile.pods
    return policy


def _replica(deployment: Deployment, replicas: int, *, is_master: bool) -> Manifest:
    return {
        "replicas": replicas,
        "restartPolicy": "OnFailure" if deployment.profile.restart.policy == "hands-off" else "Never",
        "template": {
            "metadata": {"labels": labels(deployment.profile, "training")},
            "spec": pod(deployment, container=CONTAINER, is_master=is_master),
        },
    }


def pod_selector(job_name: str) -> str:
    """Return the label selector of a job's pods.

    >>> pod_selector("tune")
    'training.kubeflow.org/job-name=tune'
    """
    return f"{JOB_LABEL}={job_name}"


def master_pod(job_name: str) -> str:
    """Return the name of the pod of rank 0, the only one that mounts a volume for one node."""
    return f"{job_name}-master-0"


def rank_of(pod: Object) -> int:
    """Return the rank that the operator gave a pod, by its labels: the master is 0, worker i is i + 1."""
    found = (pod.get("metadata") or {}).get("labels") or {}
    return 0 if found.get(ROLE_LABEL) == "master" else 1 + int(found.get(INDEX_LABEL) or 0)


def replica_specs(job: Object) -> Object:
    """Return the replicas by role, Master and Worker; the result is empty where there are none."""
    return (job.get("spec") or {}).get("pytorchReplicaSpecs") or {}


def replica_count(job: Object) -> int:
    """Return how many pods the job wants."""
    return sum(int(replica.get("replicas") or 0) for replica in replica_specs(job).values())


def pod_template(job: Object) -> Object:
    """Return the template of rank 0; others differ from it in what stands behind their volumes alone."""
    return (replica_specs(job).get("Master") or {}).get("template") or {}


def phase_of(job: Object | None) -> str:
    """Return the phase by the job's conditions: type and status both count, the end beats what was before.

    >>> ended = [{"type": "Running", "status": "False"}, {"type": "Succeeded", "status": "True"}]
    >>> phase_of({"status": {"conditions": ended}})
    'Succeeded'
    """
    if job is None:
        return "Absent"
    conditions = (job.get("status") or {}).get("conditions") or []
    holding = [condition["type"] for condition in conditions if condition.get("status") == "True"]
    ended = [kind for kind in holding if kind in FINISHED]
    # 'Created' stays true for ever, so it is the phase only while it is alone.
    return str((ended or [kind for kind in holding if kind != "Created"] or holding or ["New"])[-1])


def is_running(job: Object | None) -> bool:
    """Return whether a job is there that has not ended."""
    return job is not None and phase_of(job) not in FINISHED


def failure_message(job: Object | None) -> str:
    """Return what the operator says of a failed job, '' if it says nothing."""
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return next((str(one.get("message", "")) for one in reversed(conditions) if one.get("type") == "Failed"), "")


def is_suspended(job: Object) -> bool:
    """Return whether the job waits to be let go on, by Kueue or by hand."""
    return bool(((job.get("spec") or {}).get("runPolicy") or {}).get("suspend"))


def resume_command(job_name: str) -> str:
    """Return the command that lets a suspended job go on."""
    patch = '{"spec":{"runPolicy":{"suspend":false}}}'
    return f"kubectl patch pytorchjob {job_name} --type=merge -p '{patch}'"
