"""What neither the job's CRD nor the pod schema can see, and what would fail on the cluster minutes later.

`problems(manifests)` takes any manifests, ours or hand-edited, and returns a sentence per problem. It is pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from deploy.jobs.pod_rules import LABEL_VALUE, quantity, template_problems

MAX_JOB_NAME = 53  # the operator makes Services of it: <job>-worker-<i>
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
CLEAN_POD_POLICIES = ("All", "Running", "None")
RESTART_POLICIES = ("OnFailure", "Never", "Always", "ExitCode")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def problems(manifests: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with these manifests, taken together; empty if nothing is."""
    return [*_each(manifests), *_together(manifests)]


def _each(manifests: Sequence[dict[str, Any]]) -> Iterator[str]:
    for manifest in manifests:
        metadata = manifest.get("metadata") or {}
        where = f"{manifest.get('kind', '?')}/{metadata.get('name', '?')}"
        yield from (f"{where}: {problem}" for problem in _metadata_problems(metadata))
        check = _BY_KIND.get(manifest.get("kind", ""))
        if check is not None:
            yield from (f"{where}: {problem}" for problem in check(manifest))


def _metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    if not metadata.get("namespace"):
        yield "metadata.namespace is missing"
    for key, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            yield f"label {key}={value!r} is not a label value (63 of A-Z a-z 0-9 - _ .)"
    if "app.kubernetes.io/name" not in (metadata.get("labels") or {}):
        yield "the label app.kubernetes.io/name is missing"


def _job_problems(job: dict[str, Any]) -> Iterator[str]:
    name, spec = job["metadata"].get("name", ""), job.get("spec") or {}
    if not DNS_1035.fullmatch(name):
        yield f"name '{name}' must be lower-case letters, digits and '-', and begin with a letter (DNS-1035)"
    if len(name) > MAX_JOB_NAME:
        yield f"name has {len(name)} characters, {MAX_JOB_NAME} at most: pods and Services are named after it"
    if not isinstance(spec.get("nprocPerNode"), str) or not re.fullmatch(
        r"auto|gpu|cpu|[1-9]\d*", spec["nprocPerNode"]
    ):
        yield f"nprocPerNode must be a string, a number in quotes or 'auto', not {spec.get('nprocPerNode')!r}"
    if "elasticPolicy" in spec:
        yield "elasticPolicy is for jobs without a master"
    yield from _replica_problems(spec.get("pytorchReplicaSpecs") or {})
    yield from _run_policy_problems(spec)
    if QUEUE_LABEL in (job["metadata"].get("labels") or {}) and _selects_gpu(spec):
        yield "a Kueue queue and a GPU node selector contradict each other: the queue's flavor chooses the node"


def _replica_problems(replicas: dict[str, Any]) -> Iterator[str]:
    unknown = [role for role in replicas if role not in ("Master", "Worker")]
    if unknown:
        yield f"pytorchReplicaSpecs has {', '.join(unknown)}; only Master and Worker are known"
    if "Master" not in replicas:
        yield "pytorchReplicaSpecs has no Master"
    for role in [role for role in ("Master", "Worker") if role in replicas]:
        replica = replicas[role] or {}
        count = replica.get("replicas")
        if role == "Master" and count != 1:
            yield f"Master.replicas must be 1, written out, not {count!r}"
        if role == "Worker" and (not isinstance(count, int) or count < 1):
            yield f"Worker.replicas must be at least 1, not {count!r}"
        restart = replica.get("restartPolicy")
        if restart not in RESTART_POLICIES:
            yield f"{role}.restartPolicy {restart!r} is none of {', '.join(RESTART_POLICIES)}"
        elif restart in ("Always", "ExitCode"):
            yield f"{role}.restartPolicy {restart} never ends a job that cannot work: OnFailure or Never"
        yield from (f"{role}: {problem}" for problem in template_problems(replica.get("template") or {}))
    if {"Master", "Worker"} <= set(replicas) and _comparable(replicas["Master"]) != _comparable(replicas["Worker"]):
        yield "Master and Worker differ in more than what stands behind their volumes"


def _comparable(replica: dict[str, Any]) -> Any:
    """A replica without its number and the sources of its volumes: what all ranks must have in common."""
    template = replica.get("template") or {}
    pod = template.get("spec") or {}
    volumes = [volume.get("name") for volume in pod.get("volumes") or []]
    return {**replica, "replicas": None, "template": {**template, "spec": {**pod, "volumes": volumes}}}


def _run_policy_problems(spec: dict[str, Any]) -> Iterator[str]:
    policy = spec.get("runPolicy")
    if not policy:
        yield "runPolicy is missing; some clients fail without it"
        return
    clean = policy.get("cleanPodPolicy")
    if clean not in CLEAN_POD_POLICIES:
        yield f"cleanPodPolicy {clean!r} is none of {', '.join(CLEAN_POD_POLICIES)}"
    elif clean == "None":
        yield "cleanPodPolicy None leaves the peers of a failed rank holding their GPUs: Running"
    replicas = (spec.get("pytorchReplicaSpecs") or {}).values()
    pods = sum(replica.get("replicas") or 0 for replica in replicas)
    restarts_in_place = any(replica.get("restartPolicy") == "OnFailure" for replica in replicas)
    limit = policy.get("backoffLimit")
    if restarts_in_place and (not isinstance(limit, int) or limit < pods or limit % max(1, pods)):
        yield f"backoffLimit is {limit!r}; it counts restarts over all {pods} pods, so make it a multiple of {pods}"


def _selects_gpu(spec: dict[str, Any]) -> bool:
    pods = [(replica.get("template") or {}).get("spec") or {} for replica in spec["pytorchReplicaSpecs"].values()]
    return any("gpu" in key for pod in pods for key in pod.get("nodeSelector") or {})


def _claim_problems(claim: dict[str, Any]) -> Iterator[str]:
    spec = claim.get("spec") or {}
    known = ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")
    if not spec.get("accessModes") or not set(spec["accessModes"]) <= set(known):
        yield f"accessModes {spec.get('accessModes')!r} must be of {', '.join(known)}"
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if (quantity(size) or 0) <= 0:
        yield f"storage {size!r} is not a size such as 50Gi"


def _service_problems(_: dict[str, Any]) -> Iterator[str]:
    yield "the training operator makes the Services of a job itself, and under the names of its pods"


_BY_KIND = {"PyTorchJob": _job_problems, "PersistentVolumeClaim": _claim_problems, "Service": _service_problems}


def _together(manifests: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What two manifests must agree in: the namespace, volumes and access modes, a policy that lets ranks meet."""
    namespaces = {(manifest.get("metadata") or {}).get("namespace") for manifest in manifests}
    if len(namespaces) > 1:
        yield f"manifests are for several namespaces: {', '.join(sorted(map(str, namespaces)))}"
    modes = {
        manifest["metadata"].get("name"): (manifest.get("spec") or {}).get("accessModes") or []
        for manifest in manifests
        if manifest.get("kind") == "PersistentVolumeClaim"
    }
    jobs = [manifest for manifest in manifests if manifest.get("kind") == "PyTorchJob"]
    for job in jobs:
        yield from _shared_claim_problems(job, modes)
    for policy in (manifest for manifest in manifests if manifest.get("kind") == "NetworkPolicy"):
        yield from (problem for job in jobs for problem in _policy_problems(policy, job))


def _shared_claim_problems(job: dict[str, Any], modes: dict[str, list[str]]) -> Iterator[str]:
    worker = ((job.get("spec") or {}).get("pytorchReplicaSpecs") or {}).get("Worker") or {}
    for volume in ((worker.get("template") or {}).get("spec") or {}).get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name in modes and "ReadWriteMany" not in modes[name]:
            yield (
                f"PyTorchJob/{job['metadata'].get('name')}: workers mount {name}, which is {', '.join(modes[name])}: "
                "pods on other nodes would wait for it forever; give workers an emptyDir, or use ReadWriteMany"
            )


def _policy_problems(policy: dict[str, Any], job: dict[str, Any]) -> Iterator[str]:
    """A policy that selects the job's pods must let them reach each other, or the ranks never meet."""
    spec, where = policy.get("spec") or {}, f"NetworkPolicy/{policy['metadata'].get('name')}"
    master = ((job.get("spec") or {}).get("pytorchReplicaSpecs") or {}).get("Master") or {}
    pod_labels = ((master.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not _selects(spec.get("podSelector"), pod_labels):
        yield f"{where}: its podSelector selects none of the job's pods"
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        open_to = [peer for rule in spec.get(direction) or [] for peer in rule.get(peers) or []]
        if not any("podSelector" in peer and _selects(peer["podSelector"], pod_labels) for peer in open_to):
            yield f"{where}: {direction} does not allow the job's own pods, so the ranks could not meet"


def _selects(selector: dict[str, Any] | None, pod_labels: dict[str, str]) -> bool:
    wanted = (selector or {}).get("matchLabels") or {}
    return all(pod_labels.get(key) == value for key, value in wanted.items())
