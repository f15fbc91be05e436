"""These rules see what neither a CRD nor the pod schema can see, and what would fail on the cluster minutes later.

`problems(manifests)` takes any manifests, ours or hand-edited, and returns a sentence per problem. It is pure.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from deploy.jobs import pytorchjob
from deploy.jobs.names import label_problems
from deploy.jobs.pod_rules import quantity
from deploy.jobs.pytorchjob_rules import job_problems, shared_claim_problems


def problems(manifests: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is wrong with these manifests, taken together; the list is empty if nothing is."""
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
    yield from label_problems(metadata.get("labels"))
    if "app.kubernetes.io/name" not in (metadata.get("labels") or {}):
        yield "the label app.kubernetes.io/name is missing"


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


_BY_KIND = {pytorchjob.KIND: job_problems, "PersistentVolumeClaim": _claim_problems, "Service": _service_problems}


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
    jobs = [manifest for manifest in manifests if manifest.get("kind") == pytorchjob.KIND]
    for job in jobs:
        yield from shared_claim_problems(job, modes)
    for policy in (manifest for manifest in manifests if manifest.get("kind") == "NetworkPolicy"):
        yield from (problem for job in jobs for problem in _policy_problems(policy, pytorchjob.pod_template(job)))


def _policy_problems(policy: dict[str, Any], pod_template: dict[str, Any]) -> Iterator[str]:
    """A policy must select the job's pods and let them reach each other, or the ranks never meet."""
    spec, where = policy.get("spec") or {}, f"NetworkPolicy/{policy['metadata'].get('name')}"
    pod_labels = (pod_template.get("metadata") or {}).get("labels") or {}
    if not _selects(spec.get("podSelector"), pod_labels):
        yield f"{where}: its podSelector selects none of the job's pods"
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        open_to = [peer for rule in spec.get(direction) or [] for peer in rule.get(peers) or []]
        if not any("podSelector" in peer and _selects(peer["podSelector"], pod_labels) for peer in open_to):
            yield f"{where}: {direction} does not allow the job's own pods, so the ranks could not meet"


def _selects(selector: dict[str, Any] | None, pod_labels: dict[str, str]) -> bool:
    wanted = (selector or {}).get("matchLabels") or {}
    return all(pod_labels.get(key) == value for key, value in wanted.items())
