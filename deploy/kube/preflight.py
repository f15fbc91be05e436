"""These checks say what must be true before a job is created; each is found out without creating anything.

The checks are functions of a profile and of what the cluster answered; only `gather` asks it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.errors import ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.pod_rules import quantity
from deploy.kube.client import Cluster
from deploy.profile import ClusterProfile, Deployment, Volume

Object = dict[str, Any]
Verdict = Literal["ok", "fails", "unknown"]

OLDEST_VERSION = (1, 23)
NEEDED_RIGHTS = (
    ("create", pytorchjob.PLURAL, pytorchjob.GROUP, ""),
    ("get", pytorchjob.PLURAL, pytorchjob.GROUP, ""),
    ("delete", pytorchjob.PLURAL, pytorchjob.GROUP, ""),
    ("list", "pods", "", ""),
    ("get", "pods", "", "log"),
    ("create", "pods", "", ""),
    ("create", "pods", "", "exec"),
    ("delete", "pods", "", ""),
    ("create", "persistentvolumeclaims", "", ""),
    ("get", "persistentvolumeclaims", "", ""),
    ("create", "networkpolicies", "networking.k8s.io", ""),
)
"""Verb, resource, group, subresource of all that apply, watch, logs, fetch and delete do."""


@dataclass(frozen=True)
class Check:
    """A check is one finding; `unknown` means that we may not look, which is no reason to stop."""

    name: str
    verdict: Verdict
    detail: str
    exit_code: int = ExitCode.MISSING


@dataclass(frozen=True)
class Facts:
    """These are the cluster's answers; None means that we may not look."""

    version: str
    serves_jobs: bool
    serves_queues: bool
    namespace_found: bool | None
    rights: Mapping[str, bool]
    nodes: Sequence[Object] | None
    quotas: Sequence[Object] | None
    limit_ranges: Sequence[Object] | None
    storage_classes: Sequence[Object] | None
    claims: Mapping[str, Object | None]
    secrets: Mapping[str, bool | None]
    queue: Object | None
    job: Object | None
    unreadable: Sequence[str] = field(default=())


def gather(cluster: Cluster, deployment: Deployment) -> Facts:
    """Ask for all of it; without a CRD or Kueue the questions about them are not asked."""
    profile = deployment.profile
    serves_jobs = cluster.serves(pytorchjob.API_VERSION, pytorchjob.PLURAL)
    serves_queues = bool(profile.queue) and cluster.serves("kueue.x-k8s.io/v1beta1", "localqueues")
    secret_names = [*profile.image_pull_secrets, *([profile.hub_token.secret] if profile.hub_token else [])]
    return Facts(
        version=cluster.version(),
        serves_jobs=serves_jobs,
        serves_queues=serves_queues,
        namespace_found=cluster.exists_if_allowed("Namespace", profile.namespace),
        rights={
            f"{verb} {resource}{f'/{sub}' if sub else ''}": cluster.may(verb, resource, group=group, subresource=sub)
            for verb, resource, group, sub in NEEDED_RIGHTS
        },
        nodes=cluster.items_if_allowed("Node"),
        quotas=cluster.items_if_allowed("ResourceQuota"),
        limit_ranges=cluster.items_if_allowed("LimitRange"),
        storage_classes=cluster.items_if_allowed("StorageClass"),
        claims={
            volume.claim: cluster.find_if_allowed("PersistentVolumeClaim", volume.claim) for volume in profile.volumes
        },
        secrets={name: cluster.exists_if_allowed("Secret", name) for name in secret_names},
        queue=cluster.find_if_allowed("LocalQueue", profile.queue) if serves_queues and profile.queue else None,
        job=cluster.find_if_allowed(pytorchjob.KIND, profile.job) if serves_jobs else None,
    )


def checks(profile: ClusterProfile, facts: Facts) -> list[Check]:
    """Return every finding, in the order in which they would stop a job."""
    return [
        check_version(facts.version),
        check_operator(serves_jobs=facts.serves_jobs),
        check_namespace(profile, found=facts.namespace_found),
        check_rights(facts.rights),
        check_image(profile.image),
        check_nodes(profile, facts.nodes),
        *check_quotas(profile, facts.quotas),
        *check_limits(profile, facts.limit_ranges),
        *(check_volume(volume, facts.claims.get(volume.claim), facts.storage_classes) for volume in profile.volumes),
        *check_secrets(profile, facts.secrets),
        *check_queue(profile, facts.queue, serves_queues=facts.serves_queues),
        check_job(profile, facts.job),
    ]


def check_version(version: str) -> Check:
    """Judge the version of Kubernetes."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match is None:
        return Check("version", "unknown", f"the cluster calls itself {version}")
    if tuple(map(int, match.groups())) < OLDEST_VERSION:
        return Check(
            "version", "fails", f"Kubernetes {version}; {'.'.join(map(str, OLDEST_VERSION))} or later is needed"
        )
    return Check("version", "ok", f"Kubernetes {version}")


def check_operator(*, serves_jobs: bool) -> Check:
    """Judge whether the cluster knows the job kind at all."""
    if serves_jobs:
        return Check("operator", "ok", f"the cluster knows {pytorchjob.KIND} ({pytorchjob.API_VERSION})")
    return Check("operator", "fails", f"{pytorchjob.NOT_SERVED}. {pytorchjob.INSTALL_BY_VERSION}")


def check_namespace(profile: ClusterProfile, *, found: bool | None) -> Check:
    """Judge whether the namespace is there; `found` is None where we may not look."""
    if found is None:
        return Check("namespace", "unknown", f"{profile.namespace}: we may not look")
    if not found:
        return Check(
            "namespace", "fails", f"{profile.namespace} does not exist: oc new-project, or choose with --namespace"
        )
    return Check("namespace", "ok", profile.namespace)


def check_rights(rights: Mapping[str, bool]) -> Check:
    """Judge whether we may do all that a job needs, by what the cluster says of each right."""
    missing = [right for right, allowed in rights.items() if not allowed]
    if missing:
        detail = f"we may not {', '.join(missing)}: ask for the role `edit` in the namespace"
        return Check("rights", "fails", detail, ExitCode.FORBIDDEN)
    return Check("rights", "ok", f"all {len(rights)} that are needed")


def check_image(image: str) -> Check:
    """Judge the image by its name; whether it can be pulled shows only on a node."""
    if "example.com" in image:
        return Check(
            "image", "fails", f"{image} is only an example: give --image REGISTRY/NAME@sha256:...", ExitCode.USAGE
        )
    if "@sha256:" not in image:
        return Check("image", "ok", f"{image} (a tag: what it names may change; a digest is safer)")
    return Check("image", "ok", image)


def check_nodes(profile: ClusterProfile, nodes: Sequence[Object] | None) -> Check:
    """Judge whether nodes could take all pods if they were empty; what others use is not known here."""
    if nodes is None:
        return Check("nodes", "unknown", "we may not look at nodes; the scheduler will say")
    fitting = [node for node in nodes if _may_run_on(profile, node)]
    room = sum(_pods_that_fit(profile, node) for node in fitting)
    wanted = f"{profile.pods} pod(s) of {_pod_size(profile)}"
    if room == 0:
        detail = (
            f"none of {len(nodes)} node(s) can take a pod of {_pod_size(profile)}: {_why_not(profile, nodes, fitting)}"
        )
        return Check("nodes", "fails", detail)
    if room < profile.pods:
        return Check("nodes", "fails", f"{len(fitting)} node(s) have room for {room}, not for {wanted}: use fewer pods")
    return Check("nodes", "ok", f"{wanted} fit on {len(fitting)} node(s), were they empty")


def _pod_size(profile: ClusterProfile) -> str:
    gpu = f"{profile.gpu.count} {profile.gpu.resource}, " if profile.gpu.count else ""
    return f"{gpu}{profile.resources.cpu} CPU, {profile.resources.memory}"


def _may_run_on(profile: ClusterProfile, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    spec = node.get("spec") or {}
    # PreferNoSchedule repels nobody who has no other choice.
    repelling = [taint for taint in spec.get("taints") or [] if taint.get("effect") in ("NoSchedule", "NoExecute")]
    return (
        not spec.get("unschedulable")
        and all(labels.get(key) == value for key, value in profile.node_selector.items())
        and all(any(_tolerates(toleration, taint) for toleration in profile.tolerations) for taint in repelling)
    )


def _tolerates(toleration: Any, taint: Object) -> bool:
    return (
        toleration.key in (None, taint.get("key"))
        and toleration.effect in (None, taint.get("effect"))
        and (toleration.operator == "Exists" or toleration.value == taint.get("value"))
    )


def _pods_that_fit(profile: ClusterProfile, node: Object) -> int:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    wanted = {"cpu": profile.resources.cpu, "memory": profile.resources.memory}
    if profile.gpu.count:
        wanted[profile.gpu.resource] = str(profile.gpu.count)
    return min(int((quantity(allocatable.get(name)) or 0) // (quantity(size) or 1)) for name, size in wanted.items())


def _why_not(profile: ClusterProfile, nodes: Sequence[Object], fitting: Sequence[Object]) -> str:
    if not fitting:
        return (
            f"node_selector {profile.node_selector} and tolerations leave none; see `kubectl get nodes --show-labels`"
        )
    resource = profile.gpu.resource
    if profile.gpu.count and not any(resource in (node.get("status") or {}).get("allocatable", {}) for node in fitting):
        return f"no node offers {resource}; is the GPU operator installed?"
    return "they are too small; lower resources in the profile"


def check_quotas(profile: ClusterProfile, quotas: Sequence[Object] | None) -> Iterator[Check]:
    """Judge whether each quota has room for all pods; None means that we may not look."""
    if quotas is None:
        yield Check("quota", "unknown", "we may not look at resource quotas")
        return
    needed = _needed(profile)
    short = [
        f"{name}: {size} needed, {status['hard'][name]} allowed, {(status.get('used') or {}).get(name, '0')} used"
        f" ({quota['metadata']['name']})"
        for quota in quotas
        for status in [quota.get("status") or {}]
        for name, size in needed.items()
        if name in (status.get("hard") or {}) and _exceeds(status, name, size)
    ]
    if short:
        yield Check(
            "quota", "fails", f"exceeded: {'; '.join(short)}. Lower the profile or ask for more", ExitCode.REFUSED
        )
    else:
        yield Check("quota", "ok", f"{len(quotas)} quota(s), enough left" if quotas else "none")


def _exceeds(status: Object, name: str, size: str) -> bool:
    used, hard = quantity((status.get("used") or {}).get(name, "0")) or 0, quantity(status["hard"][name]) or 0
    return used + (quantity(size) or 0) > hard


def _needed(profile: ClusterProfile) -> dict[str, str]:
    """What all pods together count as, under every name that a quota may use."""
    cpu, memory = quantity(profile.resources.cpu) or 0, quantity(profile.resources.memory) or 0
    cpu_limit = quantity(profile.resources.cpu_limit or profile.resources.cpu) or 0
    needed = {
        "pods": str(profile.pods),
        "requests.cpu": str(cpu * profile.pods),
        # A quota without a prefix means the requests.
        "cpu": str(cpu * profile.pods),
        "limits.cpu": str(cpu_limit * profile.pods),
        **{name: str(memory * profile.pods) for name in ("requests.memory", "memory", "limits.memory")},
    }
    if profile.gpu.count:
        needed[f"requests.{profile.gpu.resource}"] = str(profile.gpu.count * profile.pods)
    return needed


def check_limits(profile: ClusterProfile, ranges: Sequence[Object] | None) -> Iterator[Check]:
    """Judge whether a container is larger than a LimitRange allows; nothing is said if it is not."""
    limits = {"cpu": profile.resources.cpu_limit or profile.resources.cpu, "memory": profile.resources.memory}
    above = [
        f"{name} {limits[name]} is above {item['max'][name]} ({one['metadata']['name']})"
        for one in ranges or []
        for item in (one.get("spec") or {}).get("limits") or []
        if item.get("type") in ("Container", "Pod")
        for name in limits.keys() & (item.get("max") or {}).keys()
        if (quantity(limits[name]) or 0) > (quantity(item["max"][name]) or 0)
    ]
    if above:
        yield Check("limits", "fails", f"{'; '.join(above)}. Lower resources in the profile", ExitCode.REFUSED)


def check_volume(volume: Volume, claim: Object | None, classes: Sequence[Object] | None) -> Check:
    """Judge a claim that is there, or whether one could be made of the storage classes."""
    name = f"volume {volume.claim}"
    if claim is not None:
        modes = (claim.get("spec") or {}).get("accessModes") or []
        phase = (claim.get("status") or {}).get("phase", "?")
        if volume.access_mode == "ReadWriteMany" and "ReadWriteMany" not in modes:
            return Check(
                name,
                "fails",
                f"is there as {', '.join(modes)}, the profile wants {volume.access_mode}",
                ExitCode.CONFLICT,
            )
        return Check(name, "ok" if phase != "Lost" else "fails", f"is there, {phase}, {', '.join(modes)}")
    if classes is None:
        return Check(name, "unknown", "will be created; we may not look at storage classes")
    names = [one["metadata"]["name"] for one in classes]
    if volume.storage_class is not None and volume.storage_class not in names:
        return Check(
            name,
            "fails",
            f"storage class {volume.storage_class} does not exist; there are: {', '.join(names) or 'none'}",
        )
    key = "storageclass.kubernetes.io/is-default-class"
    defaults = [
        one["metadata"]["name"] for one in classes if (one["metadata"].get("annotations") or {}).get(key) == "true"
    ]
    if volume.storage_class is None and not defaults:
        return Check(
            name,
            "fails",
            f"there is no default storage class; set storage_class to one of: {', '.join(names) or 'none'}",
        )
    return Check(
        name, "ok", f"will be created: {volume.size}, {volume.access_mode}, class {volume.storage_class or defaults[0]}"
    )


def check_secrets(profile: ClusterProfile, secrets: Mapping[str, bool | None]) -> Iterator[Check]:
    """Judge for each Secret of the profile whether it is there, or not needed."""
    token = profile.hub_token
    for name, found in secrets.items():
        needed = name in profile.image_pull_secrets or bool(token and not token.optional)
        if found is None:
            yield Check(f"secret {name}", "unknown", "we may not look")
        elif not found and needed:
            yield Check(f"secret {name}", "fails", "is not there: kubectl create secret")
        else:
            yield Check(f"secret {name}", "ok", "is there" if found else "is not there; public models need none")


def check_queue(profile: ClusterProfile, queue: Object | None, *, serves_queues: bool) -> Iterator[Check]:
    """Judge Kueue's queue; nothing is said where the profile names none."""
    if profile.queue is None:
        return
    if not serves_queues:
        yield Check("queue", "fails", "the profile names a queue, but Kueue is not installed: --set queue=null")
    elif queue is None:
        yield Check("queue", "fails", f"there is no LocalQueue {profile.queue} here; see: kubectl get localqueues")
    else:
        yield Check("queue", "ok", profile.queue)


def check_job(profile: ClusterProfile, job: Object | None) -> Check:
    """Judge whether the job's name is free, or its bearer has ended."""
    if job is None:
        return Check("job name", "ok", f"{profile.job} is free")
    if pytorchjob.is_running(job):
        detail = f"{profile.job} is there and {pytorchjob.phase_of(job)}: `delete` it, or `apply --replace`"
        return Check("job name", "fails", detail, ExitCode.CONFLICT)
    return Check("job name", "ok", f"{profile.job} is there and {pytorchjob.phase_of(job)}; apply takes its place")


def print_checks(found: Sequence[Check], console: Console) -> int:
    """Print the table; returns the exit code of the first check that fails."""
    marks = {"ok": "[green]ok[/]", "fails": "[red]fails[/]", "unknown": "[yellow]unknown[/]"}
    table = Table(box=None, show_header=False)
    for check in found:
        table.add_row(marks[check.verdict], check.name, escape(check.detail))
    console.print(table)
    return next((int(check.exit_code) for check in found if check.verdict == "fails"), int(ExitCode.DONE))
