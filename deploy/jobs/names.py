"""Here the objects of a run get their labels, and names and labels are held against what Kubernetes takes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from deploy.profile import ClusterProfile

Manifest: TypeAlias = dict[str, Any]

APPLICATION = "fieldcraft"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def labels(profile: ClusterProfile, component: str) -> dict[str, str]:
    """Return Kubernetes' recommended labels for an object of this job; `component` is its part in it."""
    return {
        "app.kubernetes.io/name": APPLICATION,
        "app.kubernetes.io/instance": profile.job,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": APPLICATION,
        "app.kubernetes.io/managed-by": f"{APPLICATION}-deploy",
    }


def label_problems(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield a sentence for every label whose value the API would refuse."""
    for key, value in (found or {}).items():
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            yield f"label {key}={value!r} is not a label value (63 of A-Z a-z 0-9 - _ .)"
