"""Objects as the tables that `kubectl get` prints."""

import datetime
from typing import Any

from tests.cluster.kinds import EVENT, JOB, POD, Kind
from tests.cluster.status import Object


def age(item: Object) -> str:
    """Time since an object was created, as kubectl writes it."""
    created = datetime.datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    seconds = int((datetime.datetime.now(datetime.UTC) - created).total_seconds())
    return f"{seconds}s" if seconds < 120 else f"{seconds // 60}m"


def pod_status(pod: Object) -> str:
    """The STATUS column: the phase, or a more telling reason."""
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if status.get("reason"):
        return str(status["reason"])
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        for state in ("waiting", "terminated"):
            reason = container.get("state", {}).get(state, {}).get("reason")
            if reason and reason != "PodInitializing":
                return str(reason)
    return str(status.get("phase", "Unknown"))


def _pod_cells(pod: Object) -> list[Any]:
    containers = pod.get("status", {}).get("containerStatuses", [])
    ready = sum(container["ready"] for container in containers)
    restarts = sum(container["restartCount"] for container in containers)
    count = len(pod["spec"]["containers"])
    return [pod["metadata"]["name"], f"{ready}/{count}", pod_status(pod), restarts, age(pod)]


def _job_cells(job: Object) -> list[Any]:
    conditions = job.get("status", {}).get("conditions") or [{"type": ""}]
    return [job["metadata"]["name"], conditions[-1]["type"], age(job)]


def _event_cells(event: Object) -> list[Any]:
    about = event["involvedObject"]
    return [age(event), event["type"], event["reason"], f"{about['kind'].lower()}/{about['name']}", event["message"]]


COLUMNS: dict[Kind, tuple[list[str], Any]] = {
    POD: (["Name", "Ready", "Status", "Restarts", "Age"], _pod_cells),
    JOB: (["Name", "State", "Age"], _job_cells),
    EVENT: (["Last Seen", "Type", "Reason", "Object", "Message"], _event_cells),
}


def table(kind: Kind, items: list[Object], revision: str) -> Object:
    """A meta.k8s.io/v1 Table with one row per object."""
    names, cells = COLUMNS.get(kind, (["Name", "Age"], lambda item: [item["metadata"]["name"], age(item)]))
    columns = [
        {"name": name, "type": "string", "format": "name" if name == "Name" else "", "description": "", "priority": 0}
        for name in names
    ]
    rows = [
        {
            "cells": cells(item),
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            },
        }
        for item in items
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "columnDefinitions": columns,
        "rows": rows,
    }
