"""What the training operator makes of a PyTorchJob, as pure functions: refusals, pods, Services, conditions."""

import copy
from collections.abc import Iterator
from typing import Any

from tests.cluster.kinds import JOB
from tests.cluster.status import Object
from tests.cluster.store import now
from tests.cluster.validation import DNS_1035

PORT_NAME, PORT = "pytorchjob-port", 23456
CONTAINER = "pytorch"
LABEL_PREFIX = "training.kubeflow.org"
ROLES = ("Master", "Worker")
RESTARTED_IN_PLACE = ("OnFailure", "Always")


def webhook_problems(job: Object) -> Iterator[str]:
    """Why the validating webhook refuses a job."""
    name, spec = job["metadata"]["name"], job["spec"]
    if not DNS_1035.match(name):
        rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-'"
        yield f'metadata.name: Invalid value: "{name}": {rule}'
    replicas = spec.get("pytorchReplicaSpecs")
    if not replicas:
        yield "spec.pytorchReplicaSpecs: Required value: must be specified"
        return
    for role, replica in replicas.items():
        path = f"spec.pytorchReplicaSpecs[{role}]"
        if role not in ROLES:
            yield f'{path}: Not supported value: "{role}": supported values: "Master", "Worker"'
        if role == "Master" and replica.get("replicas") != 1:
            yield f"{path}.replicas: Invalid value: {replica.get('replicas')}: should be 1"
        if role == "Worker" and replica.get("replicas", 1) < 1:
            yield f"{path}.replicas: Invalid value: {replica['replicas']}: must be at least 1"
        containers = replica.get("template", {}).get("spec", {}).get("containers", [])
        if not containers:
            yield f"{path}.template.spec.containers: Required value: must be specified"
        for index, container in enumerate(containers):
            if not container.get("image"):
                yield f"{path}.template.spec.containers[{index}].image: Required value: must be specified"
        if CONTAINER not in [container["name"] for container in containers]:
            rule = f"must have at least one container with name {CONTAINER}"
            yield f"{path}.template.spec.containers: Required value: {rule}"


def replica_name(job_name: str, role: str, index: int) -> str:
    """
    >>> replica_name("tune", "Worker", 2)
    'tune-worker-2'
    """
    return f"{job_name}-{role.lower()}-{index}"


def replica_labels(job_name: str, role: str, index: int) -> dict[str, str]:
    labels = {
        f"{LABEL_PREFIX}/operator-name": "pytorchjob-controller",
        f"{LABEL_PREFIX}/job-name": job_name,
        f"{LABEL_PREFIX}/replica-type": role.lower(),
        f"{LABEL_PREFIX}/replica-index": str(index),
    }
    return {**labels, f"{LABEL_PREFIX}/job-role": "master"} if role == "Master" else labels


def owner_of(job: Object) -> list[Object]:
    identity = {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    kind = {"apiVersion": JOB.api_version, "kind": JOB.name}
    return [{**kind, **identity, "controller": True, "blockOwnerDeletion": True}]


def desired_replicas(job: Object) -> dict[str, int]:
    specs = job["spec"]["pytorchReplicaSpecs"]
    return {role: specs[role].get("replicas", 1) for role in ROLES if role in specs}


def job_port(job: Object) -> int:
    """The rendezvous port: that of the first replica's `pytorchjob-port`, or 23456."""
    specs = job["spec"]["pytorchReplicaSpecs"]
    first = specs.get("Master") or specs["Worker"]
    ports = _pytorch_container(first["template"]).get("ports", [])
    return next((int(port["containerPort"]) for port in ports if port.get("name") == PORT_NAME), PORT)


def _pytorch_container(template: Object) -> Object:
    return next((c for c in template["spec"]["containers"] if c["name"] == CONTAINER), {})


def injected_environment(job: Object, role: str, index: int) -> list[Object]:
    """What the operator appends to every container: never LOCAL_RANK, and its values come last, so they win."""
    replicas = desired_replicas(job)
    per_node = str(job["spec"].get("nprocPerNode", "1"))
    port = str(job_port(job))
    master = replica_name(job["metadata"]["name"], "Master" if "Master" in replicas else "Worker", 0)
    rank = index if role == "Master" or "Master" not in replicas else index + 1
    num_nodes = sum(replicas.values())
    values = {
        "PYTHONUNBUFFERED": "1",
        "MASTER_PORT": port,
        "PET_MASTER_PORT": port,
        "MASTER_ADDR": master,
        "PET_MASTER_ADDR": master,
        "WORLD_SIZE": str(num_nodes * (int(per_node) if per_node.isdigit() else 1)),
        "RANK": str(rank),
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": per_node,
        "PET_NNODES": str(num_nodes),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def pod_of(job: Object, role: str, index: int) -> Object:
    """The pod of one replica."""
    replica = job["spec"]["pytorchReplicaSpecs"][role]
    template = copy.deepcopy(replica["template"])
    job_name = job["metadata"]["name"]
    spec = template["spec"]
    policy = replica.get("restartPolicy", "OnFailure")
    spec["restartPolicy"] = "Never" if policy == "ExitCode" else policy
    for container in spec["containers"]:
        container["env"] = [*container.get("env", ()), *injected_environment(job, role, index)]
    if role == "Worker" and "Master" in job["spec"]["pytorchReplicaSpecs"]:
        spec["initContainers"] = [*spec.get("initContainers", ()), _init_container(replica_name(job_name, "Master", 0))]
    metadata = template.get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": replica_name(job_name, role, index),
            "namespace": job["metadata"]["namespace"],
            "labels": {**metadata.get("labels", {}), **replica_labels(job_name, role, index)},
            "annotations": metadata.get("annotations", {}),
            "ownerReferences": owner_of(job),
        },
        "spec": spec,
    }


def _init_container(master: str) -> Object:
    look_up = f"for i in $(seq 100); do nslookup {master} && exit 0; sleep 2; done; exit 1"
    return {
        "name": "init-pytorch",
        "image": "alpine:3.10",
        "command": ["sh", "-c", look_up],
        "resources": {"limits": {"cpu": "100m", "memory": "20Mi"}, "requests": {"cpu": "50m", "memory": "10Mi"}},
    }


def service_of(job: Object, role: str, index: int) -> Object:
    """The headless Service of one replica, with every port of the pytorch container and the operator's own."""
    job_name = job["metadata"]["name"]
    template = job["spec"]["pytorchReplicaSpecs"][role]["template"]
    ports = [
        {"name": port.get("name", f"port-{place}"), "port": port["containerPort"]}
        for place, port in enumerate(_pytorch_container(template).get("ports", []))
    ]
    if PORT_NAME not in [port["name"] for port in ports]:
        ports.append({"name": PORT_NAME, "port": PORT})
    labels = replica_labels(job_name, role, index)
    selector = {name: value for name, value in labels.items() if not name.endswith("/job-role")}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": replica_name(job_name, role, index),
            "namespace": job["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": owner_of(job),
        },
        "spec": {"clusterIP": "None", "selector": selector, "ports": ports},
    }


def network_policy_of(job: Object) -> Object:
    """OpenShift AI's: pods of the job hear each other, and the monitoring on TCP 8080."""
    job_name = job["metadata"]["name"]
    selector = {"matchLabels": {f"{LABEL_PREFIX}/job-name": job_name}}
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "openshift-monitoring"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": job_name,
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": owner_of(job),
        },
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": selector}]},
                {"ports": [{"protocol": "TCP", "port": 8080}], "from": [{"namespaceSelector": monitoring}]},
            ],
        },
    }


def has_condition(status: Object, type_: str) -> bool:
    """Whether a condition is there and true."""
    return any(c["type"] == type_ and c["status"] == "True" for c in status.get("conditions", ()))


def is_over(status: Object) -> bool:
    return has_condition(status, "Succeeded") or has_condition(status, "Failed")


def with_condition(status: Object, type_: str, reason: str, message: str, value: str = "True") -> Object:
    """The status with a condition set; a changed one is appended at the end, and Failed is the last word.

    >>> done = with_condition(with_condition({}, "Running", "R", "runs"), "Succeeded", "S", "done")
    >>> [(c["type"], c["status"]) for c in done["conditions"]]
    [('Running', 'False'), ('Succeeded', 'True')]
    """
    old: list[Any] = status.get("conditions", [])
    same = next((c for c in old if c["type"] == type_), None)
    if has_condition(status, "Failed") or (same and (same["status"], same["reason"]) == (value, reason)):
        return status
    kept = [_demoted(c, type_) for c in old if c["type"] != type_ and not _replaces(type_, c["type"])]
    condition = {
        "type": type_,
        "status": value,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now(),
        "lastTransitionTime": same["lastTransitionTime"] if same and same["status"] == value else now(),
    }
    return {**status, "conditions": [*kept, condition]}


def _replaces(new: str, old: str) -> bool:
    return (new, old) in (("Running", "Restarting"), ("Restarting", "Running"))


def _demoted(condition: Object, new: str) -> Object:
    """A job that has ended is not running any more."""
    if new in ("Succeeded", "Failed") and condition["type"] == "Running" and condition["status"] == "True":
        return {**condition, "status": "False", "lastUpdateTime": now(), "lastTransitionTime": now()}
    return condition
