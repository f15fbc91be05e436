"""A run folder is brought back from its volume here, byte for byte.

A small locked-down pod mounts the volume read-only; `kubectl exec` streams each file from where the last attempt
broke off; every file that `best_model/manifest.json` lists is checked against its sha256. The pod is removed whatever
happens, and by its own deadline should this program be killed.
"""

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_incrementing

from data.files import sha256_of
from deploy.errors import ClusterError, DeployError, ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.meaning import Snapshot, explanations
from deploy.jobs.names import labels
from deploy.jobs.pods import CONTAINER_SECURITY, placement, pod_security, pull_policy
from deploy.kube.client import Cluster
from deploy.profile import OUTPUT_MOUNT, ClusterProfile, Deployment
from train.run_folder.manifest import MANIFEST, READY, ManifestError, parse_manifest, stays_inside, verify_manifest
from train.run_folder.run_folder import RunFolder

Object = dict[str, Any]
Say = Callable[[str], None]
Advance = Callable[[int], None]

CONTAINER = "fetch"
POD_LIFETIME_SECONDS = 6 * 3600
POLL_SECONDS = 1.0
CHUNK_BYTES = 1 << 20
MAX_ATTEMPTS_WITHOUT_PROGRESS = 5
PART = ".part"

# The image has Python for certain; tar, find and dd it may not have.
SLEEP = f"import time; time.sleep({POD_LIFETIME_SECONDS})"
LIST = (
    "import json, os, sys; top = sys.argv[1]; "
    "paths = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]; "
    "print(json.dumps({os.path.relpath(path, top): os.path.getsize(path) for path in paths}))"
)
STREAM = (
    "import shutil, sys; stream = open(sys.argv[1], 'rb'); stream.seek(int(sys.argv[2])); "
    "shutil.copyfileobj(stream, sys.stdout.buffer, 1 << 20)"
)


@dataclass(frozen=True)
class RemoteFile:
    """This is a file of the run folder on the volume; `sha256` is known for those of the published model."""

    path: str
    num_bytes: int
    sha256: str | None = None


def extractor_pod(profile: ClusterProfile, name: str, node: str | None) -> Object:
    """Return a pod that only holds the output volume, read-only; `node` is where the volume is in use just now."""
    affinity = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    pinned = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [affinity]}}}
    # No node selector: reading needs no GPU, and the volume decides where the pod can be.
    where = {key: value for key, value in placement(profile).items() if key != "nodeSelector"}
    claim = {"claimName": profile.output_volume.claim}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels(profile, "fetch")},
        "spec": {
            "restartPolicy": "Never",
            # Should this program be killed, nobody else would remove the pod.
            "activeDeadlineSeconds": POD_LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pod_security(profile),
            **where,
            **({"affinity": pinned} if node else {}),
            "containers": [
                {
                    "name": CONTAINER,
                    "image": profile.image,
                    "imagePullPolicy": pull_policy(profile),
                    "command": ["python", "-c", SLEEP],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "1", "memory": "512Mi"},
                    },
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [{"name": "output", "mountPath": OUTPUT_MOUNT, "readOnly": True}],
                }
            ],
            # The mount is read-only, the claim is not: a volume attached read-write elsewhere would be refused.
            "volumes": [{"name": "output", "persistentVolumeClaim": claim}],
        },
    }


def wanted_files(
    sizes: Mapping[str, int], manifest: Mapping[str, Any] | None, *, checkpoints: bool
) -> list[RemoteFile]:
    """Return what to bring, the marker READY last; half-written files (they begin with a dot) stay.

    >>> sizes = {"best_model/READY": 0, "a.json": 5, ".a.json.7": 2}
    >>> [file.path for file in wanted_files(sizes, None, checkpoints=False)]
    ['a.json', 'best_model/READY']
    """
    hashes = {f"best_model/{name}": facts["sha256"] for name, facts in ((manifest or {}).get("files") or {}).items()}
    paths = [
        path
        for path in sizes
        if not any(part.startswith(".") for part in PurePosixPath(path).parts[:-1])
        and (path in hashes or not path.rpartition("/")[2].startswith("."))
        # Checkpoints hold the optimizer's state too, which a resumed run alone can use.
        and (checkpoints or not path.startswith("checkpoints/"))
    ]
    paths.sort(key=lambda path: (path == f"best_model/{READY}", path))
    return [RemoteFile(path, sizes[path], hashes.get(path)) for path in paths]


class Extractor:
    """An extractor reads the run folder through a running pod."""

    def __init__(self, cluster: Cluster, pod: str, folder: str) -> None:
        self._cluster, self._pod, self._folder = cluster, pod, folder

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below the run folder, by relative path."""
        return {str(path): int(size) for path, size in json.loads(self._output(LIST, self._folder)).items()}

    def content(self, path: str) -> bytes:
        """Return a small file whole."""
        return self._output(STREAM, f"{self._folder}/{path}", "0")

    def stream(self, path: str, offset_bytes: int) -> Iterator[bytes]:
        """Yield the file from an offset on; it may end early when the connection does.

        Raises:
            DeployError: it ended with an error and nothing more came.
        """
        command = self._cluster.exec_command(
            self._pod, CONTAINER, ["python", "-c", STREAM, f"{self._folder}/{path}", str(offset_bytes)]
        )
        # A session of its own: Ctrl-C is for us, who then end it in order.
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                while chunk := process.stdout.read(CHUNK_BYTES):
                    yield chunk
                error = process.stderr.read().decode("utf-8", "replace")
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise _exec_failed(error)

    def _output(self, *arguments: str) -> bytes:
        command = self._cluster.exec_command(self._pod, CONTAINER, ["python", "-c", *arguments])
        return _stdout_of(command)


@retry(
    retry=retry_if_exception_type(DeployError),
    wait=wait_incrementing(start=0, increment=1),
    stop=stop_after_attempt(MAX_ATTEMPTS_WITHOUT_PROGRESS),
    reraise=True,
)
def _stdout_of(command: Sequence[str]) -> bytes:
    finished = subprocess.run(command, capture_output=True, check=False, start_new_session=True)
    if finished.returncode:
        raise _exec_failed(finished.stderr.decode("utf-8", "replace"))
    return finished.stdout


def _exec_failed(stderr: str) -> DeployError:
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "no message").strip()
    forbidden = "forbidden" in last.lower()
    return DeployError(
        f"reading in the pod failed: {last}",
        "The role needs `create` on pods/exec." if forbidden else "Start fetch again: it goes on where it stopped.",
        exit_code=ExitCode.FORBIDDEN if forbidden else ExitCode.INCOMPLETE,
    )


def wait_for_end(cluster: Cluster, deployment: Deployment, *, timeout_seconds: float, say: Say) -> Object | None:
    """Wait while the job runs, and return it: the model gets its READY marker at the very end.

    Raises:
        DeployError: it still runs after `timeout_seconds`.
    """
    name, deadline, told = deployment.profile.job, time.monotonic() + timeout_seconds, False
    while pytorchjob.is_running(job := cluster.find(pytorchjob.KIND, name)):
        if time.monotonic() > deadline:
            raise DeployError(
                f"job {name} still runs ({pytorchjob.phase_of(job)}) after {timeout_seconds:.0f} s",
                "Fetch later, or with a larger --timeout.",
                exit_code=ExitCode.INCOMPLETE,
            )
        if not told:
            say(f"job {name} is not finished ({pytorchjob.phase_of(job)}); waiting for it")
            told = True
        time.sleep(5 * POLL_SECONDS)
    return job


def with_image_of(deployment: Deployment, job: Object | None) -> Deployment:
    """Return the deployment with the image that the job ran, which can certainly be pulled; as it is without a job."""
    try:
        image = str(pytorchjob.pod_template(job or {})["spec"]["containers"][0]["image"])
    except (KeyError, IndexError, TypeError):
        return deployment
    return replace(deployment, profile=deployment.profile.model_copy(update={"image": image}))


@contextmanager
def extractor(cluster: Cluster, deployment: Deployment, *, timeout_seconds: float, say: Say) -> Iterator[Extractor]:
    """Keep an extractor pod running for the length of a `with`; it is removed also on Ctrl-C.

    Raises:
        DeployError: the volume is not there, or the pod does not start in time (why, in words).
    """
    profile = deployment.profile
    if cluster.find("PersistentVolumeClaim", profile.output_volume.claim) is None:
        raise DeployError(
            f"there is no volume claim {profile.output_volume.claim} in namespace {profile.namespace}",
            "Nothing was ever trained there; see --namespace and the profile's output_volume.",
            exit_code=ExitCode.MISSING,
        )
    master = cluster.find("Pod", pytorchjob.master_pod(profile.job))
    # A ReadWriteOnce volume can be mounted a second time on its node, and nowhere else.
    in_use = bool(master) and ((master or {}).get("status") or {}).get("phase") == "Running"
    node = ((master or {}).get("spec") or {}).get("nodeName") if in_use else None
    name = f"{profile.job}-fetch-{secrets.token_hex(3)}"
    try:
        cluster.create(extractor_pod(profile, name, node))
        _wait_until_running(cluster, name, profile, timeout_seconds)
        yield Extractor(cluster, name, str(deployment.config.output.dir))
    finally:
        _remove(cluster, name, say)


def _wait_until_running(cluster: Cluster, name: str, profile: ClusterProfile, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        pod = cluster.find("Pod", name)
        phase = ((pod or {}).get("status") or {}).get("phase")
        if phase == "Running":
            return
        if time.monotonic() > deadline or phase in ("Failed", "Succeeded"):
            claim = cluster.find("PersistentVolumeClaim", profile.output_volume.claim)
            events = cluster.items_if_allowed("Event") or []
            reasons = explanations(Snapshot(None, [pod] if pod else [], events, [claim] if claim else []))
            why = "; ".join(reasons) or f"it is {phase or 'gone'}"
            raise DeployError(f"the pod that reads the volume did not start: {why}", exit_code=ExitCode.INCOMPLETE)
        time.sleep(POLL_SECONDS)


def _remove(cluster: Cluster, pod: str, say: Say) -> None:
    try:
        cluster.delete("Pod", pod)
    except ClusterError as error:
        say(f"pod {pod} could not be removed ({error.problem}); it ends by itself, or: kubectl delete pod {pod}")


def fetch_run(
    source: Extractor, target: Path, *, checkpoints: bool, say: Say, advance: Callable[[RemoteFile], Advance]
) -> int:
    """Copy the run folder to `target`, and check it; returns the bytes that had to travel.

    Raises:
        DeployError: there is no finished model, a file is corrupt on the volume, or the connection is lost for good.
    """
    sizes = source.sizes()
    if f"best_model/{READY}" not in sizes:
        raise DeployError(
            "the volume holds no finished model (no best_model/READY)"
            if sizes
            else "the run folder is not on the volume",
            "The run's log says how far it came: `logs`, with the same options.",
            exit_code=ExitCode.MISSING,
        )
    manifest = _manifest_on(source)
    files = wanted_files(sizes, manifest, checkpoints=checkpoints)
    for file in files:
        _inside(target, file.path)
    (RunFolder(target).best_model / READY).unlink(missing_ok=True)  # the marker must not stand beside a mixture
    travelled = sum(_bring(source, file, target, say, advance(file)) for file in files)
    try:
        verify_manifest(RunFolder(target).best_model)
    except ManifestError as error:
        raise DeployError(f"what arrived is not what was published: {error}", exit_code=ExitCode.INCOMPLETE) from None
    return travelled


def _manifest_on(source: Extractor) -> Object:
    try:
        return parse_manifest(source.content(f"best_model/{MANIFEST}"), f"best_model/{MANIFEST}")
    except ManifestError as error:
        raise DeployError(
            f"the model on the volume is damaged: {error}",
            "It cannot be trusted; train again, or restore the volume.",
            exit_code=ExitCode.INCOMPLETE,
        ) from None


def _inside(target: Path, path: str) -> Path:
    """Where a file goes; a name that leads out of the folder is refused."""
    local = target / path
    if not stays_inside(path) or not local.resolve().is_relative_to(target.resolve()):
        raise DeployError(
            f"the volume holds a file that would leave the folder: {path!r}", exit_code=ExitCode.INCOMPLETE
        )
    return local


def _bring(source: Extractor, file: RemoteFile, target: Path, say: Say, advance: Advance) -> int:
    """One file, unless it is here already; returns the bytes that travelled."""
    local = _inside(target, file.path)
    if file.sha256 and local.is_file() and sha256_of(local) == file.sha256:
        advance(file.num_bytes)
        return 0
    local.parent.mkdir(parents=True, exist_ok=True)
    part = local.with_name(local.name + PART)
    if file.sha256 is None:  # without a hash nobody could tell whether a part of it is of the same file
        part.unlink(missing_ok=True)
    resumed = part.is_file()
    travelled = _download(source, file, part, say, advance)
    if file.sha256 and sha256_of(part) != file.sha256 and resumed:
        say(f"{file.path}: what was here before was of another file; taking all of it anew")
        part.unlink()
        travelled += _download(source, file, part, say, advance)
    if file.sha256 and sha256_of(part) != file.sha256:
        part.unlink()
        raise DeployError(
            f"{file.path} is corrupt on the volume: its sha256 is not the manifest's",
            "The model there cannot be trusted; train again, or restore the volume.",
            exit_code=ExitCode.INCOMPLETE,
        )
    part.replace(local)
    return travelled


def _download(source: Extractor, file: RemoteFile, part: Path, say: Say, advance: Advance) -> int:
    """Append to `part` until it is complete, starting over where the connection broke; returns bytes received."""
    if part.is_file() and part.stat().st_size > file.num_bytes:
        part.unlink()
    done = start = part.stat().st_size if part.is_file() else 0
    advance(done)
    part.touch()
    failures = 0
    while done < file.num_bytes:
        before = done
        problem: DeployError | None = None
        try:
            with part.open("ab") as stream:
                for chunk in source.stream(file.path, done):
                    stream.write(chunk)
                    done += len(chunk)
                    advance(len(chunk))
        except DeployError as error:
            problem = error
        if done >= file.num_bytes:
            break
        failures = 0 if done > before else failures + 1
        if failures >= MAX_ATTEMPTS_WITHOUT_PROGRESS or (problem and problem.exit_code == ExitCode.FORBIDDEN):
            raise problem or DeployError(
                f"{file.path} ends after {done} of {file.num_bytes} bytes",
                "Start fetch again: it goes on where it stopped.",
                exit_code=ExitCode.INCOMPLETE,
            )
        say(f"{file.path}: broke off at {done} of {file.num_bytes} bytes; going on from there")
        time.sleep(failures)
    return done - start
