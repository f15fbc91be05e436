"""What the objects of a run are called: their labels, and the type that all of them have."""

from typing import Any, TypeAlias

from deploy.profile import ClusterProfile

Manifest: TypeAlias = dict[str, Any]

APPLICATION = "fieldcraft"


def labels(profile: ClusterProfile, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": APPLICATION,
        "app.kubernetes.io/instance": profile.job,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": APPLICATION,
        "app.kubernetes.io/managed-by": f"{APPLICATION}-deploy",
    }
