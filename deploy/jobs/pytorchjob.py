"""A run as a PyTorchJob, as plain dictionaries."""

from deploy.jobs.names import Manifest, labels
from deploy.jobs.pods import pod
from deploy.profile import ClusterProfile, Deployment

SECONDS_PER_DAY = 86_400


def pytorch_job(deployment: Deployment) -> Manifest:
    profile = deployment.profile
    replica_specs: Manifest = {"Master": _replica(deployment, 1, is_master=True)}
    if profile.pods > 1:
        replica_specs["Worker"] = _replica(deployment, profile.pods - 1, is_master=False)
    queue = {"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": profile.job,
            "namespace": profile.namespace,
            "labels": {**labels(profile, "training"), **queue},
        },
        "spec": {
            "nprocPerNode": str(max(1, profile.gpu.count)),
            "runPolicy": _run_policy(profile),
            "pytorchReplicaSpecs": replica_specs,
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
            "spec": pod(deployment, is_master=is_master),
        },
    }
