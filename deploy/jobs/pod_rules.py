"""These rules hold for one pod template of a job: environment, ports, volumes, resources, security.

Pure; see `deploy.jobs.manifest_rules`.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from deploy.jobs.names import label_problems

FIRST_UNPRIVILEGED_PORT = 1024
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (a mount)

IMAGE_VARIABLE = "FIELDCRAFT_IMAGE"
"""Tells a run its image, which no field of the downward API does; `train.run_folder.provenance` records it."""

HARMFUL_ENVIRONMENT = frozenset(("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_ALGO", "NCCL_PROTO", "NCCL_CROSS_NIC"))
"""Switches for debugging: useless or harmful where each pod has one GPU and talks over the pod network."""

WRITABLE_FOLDERS = (
    "HOME", "TMPDIR", "HF_HOME", "CACHE_DIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    "MPLCONFIGDIR", "OUTPUT_DIR",
)  # fmt: skip
"""Variables naming folders that are written to; the root file system is read-only."""

CONTAINER_MUST = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_MUST = {"seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True)
class Operator:
    """A job kind's operator looks for a container in the pod template, and adds a port and variables to it."""

    container: str
    variables: frozenset[str]
    port: int
    port_name: str


def quantity(text: Any) -> Decimal | None:
    """Return a Kubernetes quantity as a number, None if it is none.

    >>> quantity("20Gi"), quantity("250m"), quantity("20GB")
    (Decimal('21474836480'), Decimal('0.250'), None)
    """
    try:
        return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError):
        return None


def template_problems(template: dict[str, Any], operator: Operator) -> Iterator[str]:
    """Yield what is wrong with a pod template of a job that `operator` runs, a sentence each."""
    pod = template.get("spec") or {}
    yield from label_problems((template.get("metadata") or {}).get("labels"))
    yield from _pod_problems(pod)
    containers = pod.get("containers") or []
    if operator.container not in [container.get("name") for container in containers]:
        yield f"no container is named '{operator.container}'; the operator refuses the job"
    for container in containers:
        where = f"container {container.get('name')}"
        yield from (f"{where}: {problem}" for problem in _container_problems(container, pod, operator))


def _container_problems(container: dict[str, Any], pod: dict[str, Any], operator: Operator) -> Iterator[str]:
    yield from _image(container)
    yield from _environment(container, operator)
    yield from _ports(container, operator)
    yield from _mounts(container, pod)
    yield from _folders(container)
    yield from _resources(container, pod)
    yield from _shared_memory(container, pod)
    yield from _security(container)


def _pod_problems(pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext") or {}
    for key, value in POD_MUST.items():
        if context.get(key) != value:
            yield f"securityContext.{key} must be {_shown(value)}"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is not allowed"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must be false: training asks the cluster nothing"
    if "restartPolicy" in pod:
        yield "the pod's own restartPolicy is overwritten by the replica's; leave it out"
    names = Counter(volume.get("name") for volume in pod.get("volumes") or [])
    yield from (f"volume {name} is defined {count} times" for name, count in names.items() if count > 1)
    yield from (
        f"volume {volume['name']} is a hostPath, which is not allowed"
        for volume in pod.get("volumes") or []
        if "hostPath" in volume
    )
    mounted = {mount.get("name") for container in _containers(pod) for mount in container.get("volumeMounts") or []}
    yield from (f"volume {name} is mounted by no container" for name in names if name not in mounted)


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]


def _image(container: dict[str, Any]) -> Iterator[str]:
    image = container.get("image") or ""
    last = image.rpartition("/")[2]
    if not image or any(character.isspace() for character in image):
        yield f"image {image!r} is no image reference"
    elif "@" in image and not re.search(r"@sha256:[0-9a-f]{64}$", image):
        yield f"image {image} has a digest that is not sha256: and 64 hexadecimal digits"
    elif "@" not in image and (":" not in last or last.endswith(":latest")):
        yield f"image {image} names no version: use a tag other than latest, or better a digest"


def _environment(container: dict[str, Any], operator: Operator) -> Iterator[str]:
    variables = container.get("env") or []
    names = Counter(variable.get("name") for variable in variables)
    yield from (f"{name} is set {count} times" for name, count in names.items() if count > 1)
    yield from (f"{name} belongs to the training operator" for name in names if name in operator.variables)
    yield from (f"{name} is a debugging switch that does harm here" for name in names if name in HARMFUL_ENVIRONMENT)
    for variable in variables:
        name, value = variable.get("name") or "", variable.get("value")
        if value is not None and not isinstance(value, str):
            yield f"the value of {name} must be a string, not {value!r}"
        if name == IMAGE_VARIABLE and value != container.get("image"):
            yield f"{name}={value} is not the container's image, and the run would record it"
        if value and re.search(r"(TOKEN|SECRET|PASSWORD|API_KEY)$", name):
            yield f"{name} holds a secret in plain text; mount a Secret"
    yield from (f"{name} must be set: the user has no entry in /etc/passwd" for name in ("USER",) if name not in names)


def _ports(container: dict[str, Any], operator: Operator) -> Iterator[str]:
    for port in container.get("ports") or []:
        number, name = port.get("containerPort"), port.get("name")
        if number == operator.port and name != operator.port_name:
            yield f"port {operator.port} must be named {operator.port_name}, or the job never gets a status"
        elif name == operator.port_name and number != operator.port:
            yield f"port {operator.port_name} must be {operator.port}, not {number}"
        if isinstance(number, int) and number < FIRST_UNPRIVILEGED_PORT:
            yield f"port {number} needs privileges"


def _mounts(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    volumes = {volume.get("name") for volume in pod.get("volumes") or []}
    mounts = container.get("volumeMounts") or []
    for mount in mounts:
        if mount.get("name") not in volumes:
            yield f"volumeMount {mount.get('name')} has no volume of that name"
        if not str(mount.get("mountPath", "")).startswith("/"):
            yield f"mountPath {mount.get('mountPath')!r} is not an absolute path"
    paths = Counter(mount.get("mountPath") for mount in mounts)
    yield from (f"{count} volumes are mounted at {path}" for path, count in paths.items() if count > 1)


def _folders(container: dict[str, Any]) -> Iterator[str]:
    """Every folder that libraries write to must lie on a mounted, writable volume."""
    values = {variable.get("name"): str(variable.get("value")) for variable in container.get("env") or []}
    writable = [
        mount["mountPath"]
        for mount in container.get("volumeMounts") or []
        if not mount.get("readOnly") and mount.get("mountPath")
    ]
    for name in WRITABLE_FOLDERS:
        if name not in values:
            yield f"{name} must name a folder on a volume: the root file system is read-only"
        elif not any(f"{values[name]}/".startswith(f"{path.rstrip('/')}/") for path in writable):
            yield f"{name}={values[name]} is on no writable volume"


def _resources(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for part, amounts in (("requests", requests), ("limits", limits)):
        yield from (f"resources.{part}.{name} is missing" for name in ("cpu", "memory") if name not in amounts)
        for name, amount in amounts.items():
            if (quantity(amount) or 0) <= 0:
                yield f"resources.{part}.{name} {amount!r} is not a quantity such as 6, 250m or 20Gi"
    for name in requests.keys() & limits.keys():
        least, most = quantity(requests[name]), quantity(limits[name])
        if least is not None and most is not None and least > most:
            yield f"resources: {name} requests {requests[name]}, more than its limit {limits[name]}"
    for name in sorted(requests.keys() | limits.keys()):
        if "/" not in name:
            continue
        if str(requests.get(name)) != str(limits.get(name)):
            asked, allowed = requests.get(name), limits.get(name)
            yield f"resources: {name} must be requested and limited alike, not {asked} and {allowed}"
        if not str(limits.get(name, "1")).isdigit():
            yield f"resources: {name} {limits.get(name)!r} must be a whole number"
        if not any(_tolerates(toleration, name) for toleration in pod.get("tolerations") or []):
            yield f"no toleration for {name}: nodes with such devices are tainted with it"


def _tolerates(toleration: dict[str, Any], key: str) -> bool:
    return toleration.get("operator") == "Exists" and toleration.get("key", key) == key


def _shared_memory(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    names = {m.get("name") for m in container.get("volumeMounts") or [] if m.get("mountPath") == SHARED_MEMORY}
    backing = [volume.get("emptyDir") or {} for volume in pod.get("volumes") or [] if volume.get("name") in names]
    if not backing or backing[0].get("medium") != "Memory":
        yield f"{SHARED_MEMORY} is 64 MiB unless an emptyDir of medium Memory is mounted there"
        return
    size = quantity(backing[0].get("sizeLimit"))
    memory = quantity(((container.get("resources") or {}).get("limits") or {}).get("memory"))
    if size is None or size <= 0:
        yield f"{SHARED_MEMORY} needs a sizeLimit: it counts as memory of the container"
    elif memory is not None and size >= memory:
        yield f"{SHARED_MEMORY} of {backing[0]['sizeLimit']} leaves nothing of the memory limit"


def _security(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext") or {}
    for key, value in CONTAINER_MUST.items():
        if context.get(key) != value:
            yield f"securityContext.{key} must be {_shown(value)}"
    if context.get("privileged"):
        yield "privileged is not allowed"
    for key in ("runAsUser", "runAsGroup"):
        if key in context:
            yield f"securityContext.{key} is the cluster's to choose"


def _shown(value: Any) -> str:
    """A value as YAML has it: true, {drop: [ALL]}."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
