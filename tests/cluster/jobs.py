"""PyTorchJobs for tests, as small as they can be."""

from typing import Any

from tests.cluster.status import Object

NAMESPACE = "fieldcraft"
IMAGE = "example.test/image:1"


def job(
    name: str = "tune",
    script: str = "sleep 30",
    *,
    worker_script: str | None = None,
    workers: int = 1,
    restart_policy: str = "OnFailure",
    container: Object | None = None,
    pod: Object | None = None,
    labels: dict[str, str] | None = None,
    **run_policy: Any,
) -> Object:
    """A job whose pods run a line of shell; `container` and `pod` are added to every template."""

    def replica(count: int, line: str) -> Object:
        command = {"name": "pytorch", "image": IMAGE, "command": ["sh", "-c", line], **(container or {})}
        spec = {"terminationGracePeriodSeconds": 1, "containers": [command], **(pod or {})}
        return {"replicas": count, "restartPolicy": restart_policy, "template": {"spec": spec}}

    replicas = {"Master": replica(1, script)}
    if workers:
        replicas["Worker"] = replica(workers, worker_script if worker_script is not None else script)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {}},
        "spec": {"runPolicy": run_policy, "pytorchReplicaSpecs": replicas},
    }
