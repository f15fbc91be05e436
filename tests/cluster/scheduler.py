"""Where a pod goes, or why it goes nowhere: pure functions of plain objects."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from tests.cluster.admission import used_in
from tests.cluster.quantities import amount
from tests.cluster.selectors import field_at
from tests.cluster.status import Object

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def choose_node(pod: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> tuple[str, str]:
    """The name of the first node that fits, and otherwise why none does, in the scheduler's words."""
    reasons: Counter[str] = Counter()
    for node in nodes:
        against = list(_objections(pod, node, pods))
        if not against:
            return node["metadata"]["name"], ""
        reasons[against[0]] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return "", f"0/{len(nodes)} nodes are available: {listed or 'no nodes'}."


def _objections(pod: Object, node: Object, pods: Iterable[Object]) -> Iterator[str]:
    labels = node["metadata"].get("labels", {})
    if node.get("spec", {}).get("unschedulable"):
        yield "node(s) were unschedulable"
    for taint in node.get("spec", {}).get("taints", ()):
        if taint["effect"] != "PreferNoSchedule" and not _tolerates(pod, taint):
            yield f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if any(labels.get(name) != value for name, value in (pod["spec"].get("nodeSelector") or {}).items()):
        yield "node(s) didn't match Pod's node affinity/selector"
    name = node["metadata"]["name"]
    used = used_in(other for other in pods if field_at(other, "spec.nodeName") == name)
    for resource, wanted in _requests(pod).items():
        free = amount(node["status"]["allocatable"].get(resource, 0)) - used.get(f"requests.{resource}", Decimal(0))
        if wanted > free:
            yield f"Insufficient {resource}"


def _requests(pod: Object) -> dict[str, Decimal]:
    prefix = "requests."
    return {name[len(prefix) :]: total for name, total in used_in([pod]).items() if name.startswith(prefix)}


def _tolerates(pod: Object, taint: Object) -> bool:
    return any(
        toleration.get("key") in (None, taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        for toleration in pod["spec"].get("tolerations", ())
    )


def claim_names(pod: Object) -> list[str]:
    volumes = pod["spec"].get("volumes", ())
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def claim_problem(claim: Object, classes: Sequence[Object]) -> tuple[str, str]:
    """Why a claim is not provisioned, as reason and message of an event; empty where it can be.

    >>> claim_problem({"spec": {"storageClassName": "fast"}}, [])
    ('ProvisioningFailed', 'storageclass.storage.k8s.io "fast" not found')
    """
    name = claim["spec"].get("storageClassName")
    if name is None:
        if any((c["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true" for c in classes):
            return "", ""
        return "FailedBinding", "no persistent volumes available for this claim and no storage class is set"
    if name in [storage_class["metadata"]["name"] for storage_class in classes]:
        return "", ""
    return "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found'


def waits_for_consumer(claim: Object, classes: Sequence[Object]) -> bool:
    """Whether the claim's class binds only when a pod uses it."""
    name = claim["spec"].get("storageClassName")
    chosen = [
        c
        for c in classes
        if c["metadata"]["name"] == name or (name is None and DEFAULT_CLASS in (c["metadata"].get("annotations") or {}))
    ]
    return bool(chosen) and chosen[0].get("volumeBindingMode") == "WaitForFirstConsumer"
