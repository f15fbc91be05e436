"""Volumes go by access mode: this file makes the claims, the mounts, and what stands behind a mount."""

from collections.abc import Iterator

from deploy.jobs.names import Manifest, labels
from deploy.profile import OUTPUT_MOUNT, WORKSPACE_MOUNT, ClusterProfile, Volume

TOKEN_MOUNT = "/secrets/hub"  # noqa: S105 (a path)


def claim(profile: ClusterProfile, volume: Volume) -> Manifest:
    """Return the PersistentVolumeClaim of a volume of the profile."""
    spec: Manifest = {"accessModes": [volume.access_mode], "resources": {"requests": {"storage": volume.size}}}
    if volume.storage_class is not None:
        spec["storageClassName"] = volume.storage_class
    # Labels by application alone: a volume outlives the job that made it and may serve another.
    shared = {key: value for key, value in labels(profile, "storage").items() if not key.endswith("/instance")}
    metadata = {"name": volume.claim, "namespace": profile.namespace, "labels": shared}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def mounts(profile: ClusterProfile) -> Iterator[Manifest]:
    """Yield the mounts of a container, the same for every rank; what stands behind one may differ by role."""
    yield {"name": "output", "mountPath": OUTPUT_MOUNT}
    yield {"name": "workspace", "mountPath": WORKSPACE_MOUNT}
    yield {"name": "scratch", "mountPath": "/tmp"}  # noqa: S108
    yield {"name": "shared-memory", "mountPath": "/dev/shm"}  # noqa: S108
    if profile.hub_token:
        yield {"name": "hub-token", "mountPath": TOKEN_MOUNT, "readOnly": True}


def volumes(profile: ClusterProfile, *, is_master: bool) -> Iterator[Manifest]:
    """Yield the volumes of a pod, one behind each mount; `is_master` says whether it is the pod of rank 0."""
    wanted = profile.resources
    yield {"name": "output", **_backing(profile.output_volume, wanted.scratch, is_master=is_master)}
    yield {"name": "workspace", **_backing(profile.workspace_volume, wanted.scratch, is_master=is_master)}
    yield {"name": "scratch", "emptyDir": {"sizeLimit": wanted.scratch}}
    yield {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": wanted.shared_memory}}
    if profile.hub_token:
        token = profile.hub_token
        # 0440: the pod's random user reads it through its group alone.
        secret = {"secretName": token.secret, "optional": token.optional, "defaultMode": 0o440}
        yield {"name": "hub-token", "secret": secret}


def _backing(volume: Volume | None, scratch: str, *, is_master: bool) -> Manifest:
    """A ReadWriteOnce claim can be on one node only: the master mounts it, the workers get a folder of their own."""
    if volume is None or (volume.access_mode == "ReadWriteOnce" and not is_master):
        return {"emptyDir": {"sizeLimit": scratch}}
    return {"persistentVolumeClaim": {"claimName": volume.claim}}
