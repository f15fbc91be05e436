"""Jobs and what they need are created, replaced and deleted here: what there is decides what is done."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.errors import ClusterError, DeployError, ExitCode, ProfileError
from deploy.jobs import pytorchjob
from deploy.kube.client import Cluster

POLL_SECONDS = 1.0
Object = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step is one thing to do: `action` is create, replace or keep (it is there and stays as it is)."""

    action: str
    manifest: Object
    existing: Object | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def line(self) -> str:
        """Return the step as people read it before it is done."""
        return f"{self.action:8} {self.kind}/{self.name}{f'  ({self.note})' if self.note else ''}"


def plan_steps(manifests: Sequence[Object], existing: Sequence[Object | None], *, replace: bool) -> list[Step]:
    """Return what to do about each manifest, given what is there under its name.

    Raises:
        DeployError: a job of that name runs, and `replace` does not allow to end it.
        ProfileError: a volume is there that cannot be what the profile wants.
    """
    return [_step(manifest, found, replace=replace) for manifest, found in zip(manifests, existing, strict=True)]


def _step(manifest: Object, found: Object | None, *, replace: bool) -> Step:
    if found is None:
        return Step("create", manifest)
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind == "PersistentVolumeClaim":
        return _keep_claim(manifest, found)
    if _covers(found.get("spec"), manifest["spec"]) and not replace and pytorchjob.phase_of(found) != "Failed":
        phase = f", {pytorchjob.phase_of(found)}" if kind == pytorchjob.KIND else ""
        return Step("keep", manifest, found, f"already there, unchanged{phase}")
    if kind != pytorchjob.KIND:
        return Step("replace", manifest, found)
    if pytorchjob.is_running(found) and not replace:
        raise DeployError(
            f"job {name} is there already ({pytorchjob.phase_of(found)}), with other settings or image",
            "Follow it with `watch`, end it with `delete`, or start anew with `apply --replace`.",
            exit_code=ExitCode.CONFLICT,
        )
    note = f"the one there: {pytorchjob.phase_of(found)}; it is deleted, its volumes stay"
    return Step("replace", manifest, found, note)


def _covers(found: Any, wanted: Any) -> bool:
    """Whether what is there says all that is wanted; a cluster adds fields (Kueue, defaults), it takes none away.

    >>> _covers({"a": [{"b": 1, "added": 2}]}, {"a": [{"b": 1}]}), _covers({"a": [1, 2]}, {"a": [1]})
    (True, False)
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _covers(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(_covers, found, wanted))
    # Defaults the cluster added lie in other keys; a value that differs is a change somebody wants.
    return bool(found == wanted)


def _keep_claim(manifest: Object, found: Object) -> Step:
    wanted, there = manifest["spec"]["accessModes"], (found.get("spec") or {}).get("accessModes") or []
    if "ReadWriteMany" in wanted and "ReadWriteMany" not in there:
        name = manifest["metadata"]["name"]
        raise ProfileError(
            f"volume claim {name} is there as {', '.join(there)}, the profile wants ReadWriteMany",
            "Set the volume's access_mode in the profile to what is there, or name another claim.",
        )
    size = (((found.get("spec") or {}).get("resources") or {}).get("requests") or {}).get("storage", "?")
    return Step("keep", manifest, found, f"{', '.join(there)}, {size}; volumes are never changed or deleted")


def look_up(cluster: Cluster, manifests: Sequence[Object]) -> list[Object | None]:
    """Return what the cluster has under each manifest's name, None where it has nothing."""
    return [cluster.find(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]


def carry_out(
    cluster: Cluster, steps: Sequence[Step], *, dry_run: bool, timeout_seconds: float, say: Callable[[str], None]
) -> None:
    """Do the steps in order, the job last; with `dry_run` the cluster checks each and keeps nothing.

    Raises:
        KeyboardInterrupt: with a note that says what is there now.
    """
    done: list[str] = []
    for step in steps:
        if step.action == "keep":
            continue
        try:
            _carry_out_one(cluster, step, dry_run=dry_run, timeout_seconds=timeout_seconds, say=say)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("nothing was changed" if dry_run else _left_behind(step, done))
            raise
        done.append(f"{step.kind}/{step.name}")
        say(f"{'would ' if dry_run else ''}{step.action} {done[-1]}{': accepted' if dry_run else ''}")


def _left_behind(step: Step, done: Sequence[str]) -> str:
    """What an interrupted apply leaves; a request that was under way may have arrived.

    >>> _left_behind(Step("create", {"kind": "NetworkPolicy", "metadata": {"name": "a"}}), ["Secret/b"])
    'created and there: Secret/b; not certain: NetworkPolicy/a. `status` shows it, the same `apply` goes on'
    """
    there = f"created and there: {', '.join(done)}; " if done else ""
    uncertain = f"{step.kind}/{step.name}{' (the one before it is being deleted)' if step.action == 'replace' else ''}"
    return f"{there}not certain: {uncertain}. `status` shows it, the same `apply` goes on"


def _carry_out_one(
    cluster: Cluster, step: Step, *, dry_run: bool, timeout_seconds: float, say: Callable[[str], None]
) -> None:
    if dry_run and step.existing is not None:
        cluster.replace(step.manifest, step.existing, dry_run=True)
    elif step.action == "create" or dry_run:
        _create(cluster, step, dry_run=dry_run)
    elif step.kind == pytorchjob.KIND:
        delete_job(cluster, step.name, timeout_seconds=timeout_seconds, say=say)
        _create(cluster, step, dry_run=False)
    elif step.existing is not None:
        cluster.replace(step.manifest, step.existing)


def _create(cluster: Cluster, step: Step, *, dry_run: bool) -> None:
    try:
        cluster.create(step.manifest, dry_run=dry_run)
    except ClusterError as error:
        if error.status != 409:
            raise
        if step.kind != pytorchjob.KIND:  # another apply was here first: its volume or policy is as good as ours
            return
        raise ClusterError(
            f"job {step.name} was created by someone else at this very moment",
            "Follow it with `watch`, or start anew with `apply --replace`.",
            exit_code=ExitCode.CONFLICT,
            status=409,
        ) from None


def restart_job(cluster: Cluster, name: str, *, timeout_seconds: float, say: Callable[[str], None]) -> None:
    """Start a job anew exactly as it was created, image and settings included."""
    job = cluster.find(pytorchjob.KIND, name)
    if job is None:
        raise DeployError(f"job {name} is gone", "Start it with `apply`.", exit_code=ExitCode.MISSING)
    delete_job(cluster, name, timeout_seconds=timeout_seconds, say=say)
    # Its version is that of the job that is gone; a create with one is refused.
    kept = {key: job["metadata"][key] for key in ("name", "namespace", "labels") if key in job["metadata"]}
    cluster.create({"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": kept, "spec": job["spec"]})


def delete_job(cluster: Cluster, name: str, *, timeout_seconds: float, say: Callable[[str], None]) -> bool:
    """Delete a job and wait until its pods are gone; False if there was none.

    Never by force: a pod that still runs somewhere would write to the volume that the next one mounts.

    Raises:
        DeployError: pods are still there after `timeout_seconds`.
    """
    found = cluster.delete(pytorchjob.KIND, name)
    deadline, told = time.monotonic() + timeout_seconds, False
    while True:
        pods = [pod["metadata"]["name"] for pod in cluster.items("Pod", labels=pytorchjob.pod_selector(name))]
        if not pods and cluster.find(pytorchjob.KIND, name) is None:
            return found
        if time.monotonic() > deadline:
            left = ", ".join(pods) or "the job itself"
            raise DeployError(
                f"after {timeout_seconds:.0f} s these pods of {name} are still there: {left}",
                "Their node may be lost: ask who runs the cluster; do not delete them by force.",
                exit_code=ExitCode.INCOMPLETE,
            )
        if not told:
            say(f"waiting for {len(pods)} pod(s) of {name} to end")
            told = True
        time.sleep(POLL_SECONDS)
