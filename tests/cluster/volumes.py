"""Volumes as folders: claims that are bound, emptyDirs of a pod, Secrets and ConfigMaps as files."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.backend import Mount
from tests.cluster.kinds import CLAIM, CONFIG_MAP, SECRET, STORAGE_CLASS
from tests.cluster.quantities import amount
from tests.cluster.scheduler import claim_names, claim_problem, waits_for_consumer
from tests.cluster.status import Object, not_found

DEFAULT_SHM_BYTES = 64 * 1024**2


class Volumes:
    """The folders of one cluster, below `root`."""

    def __init__(self, api: Api, root: Path) -> None:
        self.api, self.root = api, root

    def folder_of_claim(self, namespace: str, name: str) -> Path:
        folder = self.root / "claims" / namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # containers run as any user
        return folder

    def provision(self) -> None:
        """Bind claims that need no consumer, and say of the others why they wait."""
        classes = self.api.store.select(STORAGE_CLASS)
        for claim in self.api.store.select(CLAIM):
            if claim.get("status", {}).get("phase") == "Bound":
                continue
            reason, message = claim_problem(claim, classes)
            if not reason and waits_for_consumer(claim, classes):
                reason, message = "WaitForFirstConsumer", "waiting for first consumer to be created before binding"
            if not reason:
                self._bind(claim)
                continue
            if "status" not in claim:
                self.api.store.replace(CLAIM, {**claim, "status": {"phase": "Pending"}})
                self._event(claim, "Normal" if reason == "WaitForFirstConsumer" else "Warning", reason, message)

    def _event(self, claim: Object, type_: str, reason: str, message: str) -> None:
        self.api.record_event(CLAIM, claim, type_, reason, message, "persistentvolume-controller")

    def _bind(self, claim: Object) -> None:
        name = claim["metadata"]["name"]
        self.folder_of_claim(claim["metadata"]["namespace"], name)
        capacity = claim["spec"]["resources"]["requests"]
        status = {"phase": "Bound", "accessModes": claim["spec"]["accessModes"], "capacity": capacity}
        spec = {**claim["spec"], "volumeName": f"pvc-{claim['metadata']['uid']}"}
        self.api.store.replace(CLAIM, {**claim, "spec": spec, "status": status})

    def bind_for(self, pod: Object) -> str:
        """Bind a pod's claims; returns why it cannot be scheduled where that fails."""
        classes = self.api.store.select(STORAGE_CLASS)
        for name in claim_names(pod):
            claim = self.api.store.find(CLAIM, pod["metadata"]["namespace"], name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim.get("status", {}).get("phase") == "Bound":
                continue
            if claim_problem(claim, classes)[0]:
                return "pod has unbound immediate PersistentVolumeClaims"
            self._bind(claim)
        return ""

    def mounts_of(self, pod: Object, container: Object) -> Iterator[Mount]:
        """The mounts of a container.

        Raises:
            ApiError: 404 for a Secret or ConfigMap that is not there.
        """
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            folder = self._folder(pod, volume) / mount.get("subPath", "")
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o777)
            read_only = mount.get("readOnly", False) or volume.get("persistentVolumeClaim", {}).get("readOnly", False)
            yield Mount(mount["mountPath"], folder, read_only, _memory_bytes(volume))

    def _folder(self, pod: Object, volume: Object) -> Path:
        namespace = pod["metadata"]["namespace"]
        if "persistentVolumeClaim" in volume:
            return self.folder_of_claim(namespace, volume["persistentVolumeClaim"]["claimName"])
        folder = self.root / "pods" / str(pod["metadata"]["uid"]) / str(volume["name"])
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            self._fill(folder, namespace, volume)
        return folder

    def _fill(self, folder: Path, namespace: str, volume: Object) -> None:
        if secret := volume.get("secret"):
            data = self.api.store.get(SECRET, namespace, secret["secretName"]).get("data", {})
            files = {name: base64.b64decode(value) for name, value in data.items()}
        elif config := volume.get("configMap"):
            data = self.api.store.get(CONFIG_MAP, namespace, config["name"]).get("data", {})
            files = {name: value.encode() for name, value in data.items()}
        else:
            files = {}
        for name, content in files.items():
            (folder / name).write_bytes(content)

    def forget_pod(self, uid: str) -> None:
        shutil.rmtree(self.root / "pods" / uid, ignore_errors=True)


def _memory_bytes(volume: Object) -> int | None:
    empty = volume.get("emptyDir") or {}
    if empty.get("medium") != "Memory":
        return None
    return int(amount(empty.get("sizeLimit", DEFAULT_SHM_BYTES)))


def environment_of(api: Api, pod: Object, container: Object, ip: str) -> dict[str, str]:
    """A container's variables. A name given twice has its last value, as in a real pod.

    Raises:
        ApiError: 404 for a Secret or ConfigMap that is not there and not optional.
    """
    namespace, values = pod["metadata"]["namespace"], {}
    for source in container.get("envFrom", ()):
        values.update(_all_of(api, namespace, source))
    for variable in container.get("env", ()):
        value = _value_of(api, pod, variable, ip)
        if value is not None:
            values[variable["name"]] = value
    return values


def _all_of(api: Api, namespace: str, source: Object) -> dict[str, str]:
    if reference := source.get("secretRef"):
        data = api.store.get(SECRET, namespace, reference["name"]).get("data", {})
        return {name: base64.b64decode(value).decode() for name, value in data.items()}
    data = api.store.get(CONFIG_MAP, namespace, source["configMapRef"]["name"]).get("data", {})
    return dict(data)


def _value_of(api: Api, pod: Object, variable: Object, ip: str) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value", ""))
    if field := source.get("fieldRef"):
        return _field(pod, field["fieldPath"], ip)
    reference: Object = source.get("secretKeyRef") or source["configMapKeyRef"]
    is_secret = "secretKeyRef" in source
    found = api.store.find(SECRET if is_secret else CONFIG_MAP, pod["metadata"]["namespace"], reference["name"])
    value = (found or {}).get("data", {}).get(reference["key"])
    if value is None:
        if reference.get("optional"):
            return None
        raise not_found("secret" if is_secret else "configmap", reference["name"])
    return base64.b64decode(value).decode() if is_secret else str(value)


def _field(pod: Object, path: str, ip: str) -> str:
    known = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": ip,
    }
    return str(known[path])
