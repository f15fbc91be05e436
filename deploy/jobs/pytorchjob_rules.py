"""These rules hold for a PyTorchJob: its CRD lets pass what the operator would choke on or never end.

Pure; see `deploy.jobs.manifest_rules`.
"""

import re
from collections.abc import Iterator
from typing import Any

from deploy.jobs.names import DNS_1035, QUEUE_LABEL
from deploy.jobs.pod_rules import template_problems
from deploy.jobs.pytorchjob import KIND, OPERATOR, replica_count, replica_specs

MAX_JOB_NAME = 53  # the operator makes Services of it: <job>-worker-<i>
CLEAN_POD_POLICIES = ("All", "Running", "None")
RESTART_POLICIES = ("OnFailure", "Never", "Always", "ExitCode")


def job_problems(job: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a job and the pod templates in it, a sentence each."""
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
    yield from _replica_problems(replica_specs(job))
    yield from _run_policy_problems(job)
    if QUEUE_LABEL in (job["metadata"].get("labels") or {}) and _selects_gpu(job):
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
        yield from (f"{role}: {problem}" for problem in template_problems(replica.get("template") or {}, OPERATOR))
    if {"Master", "Worker"} <= set(replicas) and _comparable(replicas["Master"]) != _comparable(replicas["Worker"]):
        yield "Master and Worker differ in more than what stands behind their volumes"


def _comparable(replica: dict[str, Any]) -> Any:
    """A replica without its number and the sources of its volumes: what all ranks must have in common."""
    template = replica.get("template") or {}
    pod = template.get("spec") or {}
    # Ranks that differ in image, variables or resources would train different models, or wait for ever.
    volumes = [volume.get("name") for volume in pod.get("volumes") or []]
    return {**replica, "replicas": None, "template": {**template, "spec": {**pod, "volumes": volumes}}}


def _run_policy_problems(job: dict[str, Any]) -> Iterator[str]:
    policy = (job.get("spec") or {}).get("runPolicy")
    if not policy:
        yield "runPolicy is missing; some clients fail without it"
        return
    clean = policy.get("cleanPodPolicy")
    if clean not in CLEAN_POD_POLICIES:
        yield f"cleanPodPolicy {clean!r} is none of {', '.join(CLEAN_POD_POLICIES)}"
    elif clean == "None":
        yield "cleanPodPolicy None leaves the peers of a failed rank holding their GPUs: Running"
    pods = replica_count(job)
    restarts_in_place = any(replica.get("restartPolicy") == "OnFailure" for replica in replica_specs(job).values())
    limit = policy.get("backoffLimit")
    if restarts_in_place and (not isinstance(limit, int) or limit < pods or limit % max(1, pods)):
        yield f"backoffLimit is {limit!r}; it counts restarts over all {pods} pods, so make it a multiple of {pods}"


def _selects_gpu(job: dict[str, Any]) -> bool:
    pods = [(replica.get("template") or {}).get("spec") or {} for replica in replica_specs(job).values()]
    return any("gpu" in key for pod in pods for key in pod.get("nodeSelector") or {})


def shared_claim_problems(job: dict[str, Any], modes: dict[str, list[str]]) -> Iterator[str]:
    """Yield claims that several pods mount though their access mode, of `modes` by name, is for one node."""
    worker = replica_specs(job).get("Worker") or {}
    for volume in ((worker.get("template") or {}).get("spec") or {}).get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name in modes and "ReadWriteMany" not in modes[name]:
            yield (
                f"{KIND}/{job['metadata'].get('name')}: workers mount {name}, which is {', '.join(modes[name])}: "
                "pods on other nodes would wait for it forever; give workers an emptyDir, or use ReadWriteMany"
            )
