"""Each rule on a PyTorchJob catches its error."""

import pytest

from tests.deploy.jobs.broken import Mutations, assert_caught, drop, put, volume

MUTATIONS: Mutations = {
    "name too long": (lambda b: put("metadata/name", "a" * 54)(b.job), "54 characters, 53 at most"),
    "name begins with a digit": (lambda b: put("metadata/name", "4ranks")(b.job), "DNS-1035"),
    "no runPolicy": (lambda b: drop("runPolicy")(b.spec), "runPolicy is missing"),
    "cleanPodPolicy unknown": (lambda b: put("runPolicy/cleanPodPolicy", "Runing")(b.spec), "'Runing' is none of"),
    "cleanPodPolicy None": (lambda b: put("runPolicy/cleanPodPolicy", "None")(b.spec), "holding their GPUs"),
    "backoffLimit": (lambda b: put("runPolicy/backoffLimit", 3)(b.spec), "a multiple of 4"),
    "nprocPerNode a number": (lambda b: put("nprocPerNode", 1)(b.spec), "nprocPerNode must be a string"),
    "elasticPolicy": (lambda b: put("elasticPolicy", {})(b.spec), "without a master"),
    "master in lower case": (lambda b: b.replicas.update(master=b.replicas.pop("Master")), "only Master and Worker"),
    "no master": (lambda b: b.replicas.pop("Master"), "has no Master"),
    "two masters": (lambda b: put("Master/replicas", 2)(b.replicas), "Master.replicas must be 1"),
    "replicas left out": (lambda b: drop("Master/replicas")(b.replicas), "Master.replicas must be 1"),
    "no workers": (lambda b: put("Worker/replicas", 0)(b.replicas), "Worker.replicas must be at least 1"),
    "restartPolicy unknown": (lambda b: put("Worker/restartPolicy", "onfailure")(b.replicas), "'onfailure' is none of"),
    "restartPolicy Always": (lambda b: put("Worker/restartPolicy", "Always")(b.replicas), "never ends a job"),
    "restartPolicy ExitCode": (lambda b: put("Worker/restartPolicy", "ExitCode")(b.replicas), "never ends a job"),
    "roles differ": (lambda b: put("image", "other:1")(b.containers()[1]), "differ in more than"),
    "queue and GPU selector": (
        lambda b: b.job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "q"}),
        "contradict each other",
    ),
    "worker on a one-node volume": (
        lambda b: volume("output", {"persistentVolumeClaim": {"claimName": "trained-models-pvc"}})(b.pods()[1]),
        "workers mount trained-models-pvc, which is ReadWriteOnce",
    ),
}  # fmt: skip


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 19


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_error_is_caught(name):
    assert_caught(MUTATIONS[name])
