"""What is in the cluster from the start: custom kinds, namespaces, nodes, storage classes."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster.kinds import CRD, JOB, LOCAL_QUEUE, NAMESPACE, NODE, STORAGE_CLASS, Kind
from tests.cluster.scheduler import DEFAULT_CLASS
from tests.cluster.status import Object

DATA_VARIABLE = "FIELDCRAFT_TEST_DATA"
REAL_DEFINITION = "kubeflow.org_pytorchjobs.yaml"
NAMESPACES = ("default", "fieldcraft", "lyric-professor", "openshift-monitoring")
NUM_GPU_NODES = 4


def data_folder() -> Path:
    """Third-party files that are not part of the project: $FIELDCRAFT_TEST_DATA, or ../shared/data."""
    return Path(os.environ.get(DATA_VARIABLE) or Path(__file__).parents[3] / "shared" / "data")


@functools.cache
def job_definition() -> Object:
    """The training operator's own CustomResourceDefinition where it is to be had, else ours: the same fields of the
    job, and pod templates unchecked."""
    real = data_folder() / REAL_DEFINITION
    if real.is_file():
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        definition: Object = yaml.load(real.read_text(), Loader=loader)
        return {**definition, "metadata": {"name": definition["metadata"]["name"]}}
    return _definition(JOB, _own_job_schema())


def _own_job_schema() -> Object:
    integer, text, anything = {"type": "integer"}, {"type": "string"}, {"x-kubernetes-preserve-unknown-fields": True}
    run_policy = {
        "activeDeadlineSeconds": integer,
        "backoffLimit": integer,
        "cleanPodPolicy": text,
        "managedBy": text,
        "schedulingPolicy": {"type": "object", **anything},
        "suspend": {"type": "boolean"},
        "ttlSecondsAfterFinished": integer,
    }
    replica = {"replicas": integer, "restartPolicy": text, "template": {"type": "object", **anything}}
    replicas = {"type": "object", "additionalProperties": {"type": "object", "properties": replica}}
    spec = {
        "elasticPolicy": {"type": "object", **anything},
        "nprocPerNode": text,
        "pytorchReplicaSpecs": replicas,
        "runPolicy": {"type": "object", "properties": run_policy},
    }
    return {
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": {"type": "object"},
            "spec": {"type": "object", "properties": spec, "required": ["pytorchReplicaSpecs"]},
            "status": {"type": "object", **anything},
        },
    }


def _definition(kind: Kind, schema: Object) -> Object:
    names = {"kind": kind.name, "listKind": f"{kind.name}List", "plural": kind.plural, "singular": kind.name.lower()}
    version = {"name": kind.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": CRD.api_version,
        "kind": CRD.name,
        "metadata": {"name": kind.resource},
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": "Namespaced",
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }


def queue_definition() -> Object:
    return _definition(LOCAL_QUEUE, {"type": "object", "x-kubernetes-preserve-unknown-fields": True})


def local_queue(namespace: str, name: str) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterQueue": "cluster-queue"}}


def node(name: str, *, gpus: int = 0, product: str = "NVIDIA-L40S") -> Object:
    """A node; one with GPUs is labelled and tainted as OpenShift AI's are."""
    amounts = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "200Gi"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    spec: Object = {}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
        labels["nvidia.com/gpu.product"] = product
        spec["taints"] = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}


def storage_class(name: str, *, is_default: bool = False) -> Object:
    annotations = {DEFAULT_CLASS: "true"} if is_default else {}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "local.test/folders",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def initial_objects() -> Iterator[tuple[Kind, Object]]:
    yield CRD, job_definition()
    for name in NAMESPACES:
        yield NAMESPACE, {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
    for name in ("node-1", "node-2"):
        yield NODE, node(name)
    for number in range(1, NUM_GPU_NODES + 1):
        yield NODE, node(f"gpu-{number}", gpus=1)
    yield STORAGE_CLASS, storage_class("gp3-csi", is_default=True)
