"""Jobs and pods as a cluster has them: as much of them as is read."""

from typing import Any


def job(*conditions: str, suspend: bool = False, queue: str = "", message: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": "j", "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {}},
        "spec": {
            "runPolicy": {"suspend": suspend},
            "pytorchReplicaSpecs": {"Master": {"replicas": 1}, "Worker": {"replicas": 3}},
        },
        "status": {
            "conditions": [
                {"type": one.lstrip("-"), "status": "False" if one.startswith("-") else "True", "message": message}
                for one in conditions
            ]
        },
    }


def pod(rank: int = 1, *, phase: str = "Running", **status: Any) -> dict[str, Any]:
    role, index = ("master", 0) if rank == 0 else ("worker", rank - 1)
    labels = {"training.kubeflow.org/replica-type": role, "training.kubeflow.org/replica-index": str(index)}
    return {
        "metadata": {"name": f"j-{role}-{index}", "labels": labels},
        "spec": {},
        "status": {"phase": phase, **status},
    }
