"""One run at a time in a run folder: a lock file that names its owner and shows that the owner is alive.

The file works where locks of the operating system do not: on NFS, and between pods. Its owner touches it every few
seconds. Whoever finds it decides by what can be seen: the owner's process where that runs beside us, else whether the
file is still being touched. Clocks of two machines are never compared: both times are the volume's own.
"""

import dataclasses
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from train.failure import FolderTakenError, RunError, StorageError

BEAT_SECONDS = 2.0
STALE_SECONDS = 30.0
"""Without a sign of life for so long, an owner that cannot be seen otherwise is taken for dead."""

SAME_START_SECONDS = 2.0
"""The start time of a process as read twice may differ by so much, where the clock was set in between."""

NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Owner:
    """Names who holds a run folder. Times are seconds since the epoch, by the owner's clock."""

    token: str
    host: str
    pid: int
    namespace: str
    """Boot and process namespace: where both are ours, the owner's process can be looked up."""
    process_started: float
    since: str

    @classmethod
    def this_process(cls) -> "Owner":
        started = psutil.Process().create_time()
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _namespace(), started, now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _namespace() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.is_file() or not NAMESPACE.is_symlink():
        return f"{psutil.boot_time():.0f}"  # not Linux: one namespace per boot
    return f"{boot.read_text().strip()} {os.readlink(NAMESPACE)}"


def is_alive(owner: Owner, us: Owner, environment: Mapping[str, str] = os.environ) -> bool | None:
    """Say whether the owner's process lives, as far as it can be seen from here; None where it cannot.

    In a cluster a pod's name is its host name, and there is one pod of a name: what it left before its container
    was started again, or before it was created anew, is dead, though process numbers begin at 1 again.
    """
    if owner.host != us.host:
        return None
    if owner.namespace == us.namespace:
        return owner.pid != us.pid and _is_running(owner.pid, owner.process_started)
    return False if "KUBERNETES_SERVICE_HOST" in environment else None


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < SAME_START_SECONDS
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class RunLock:
    """Holds the right to write one run folder, from `acquire` until the `with` block ends.

    `leave` ends the process and reports why: it is called, from a thread, when another run has taken the folder over,
    which happens to a process that was frozen for longer than `stale_seconds`.
    """

    def __init__(
        self,
        path: Path,
        leave: Callable[[RunError], None],
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.path, self._leave = path, leave
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self.us: Owner | None = None
        self._released = threading.Event()

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the folder, at once or as soon as its owner has proved dead.

        Raises:
            FolderTakenError: another run writes the folder; names its owner and the age of its last sign of life.
            StorageError: the folder cannot be written.
        """
        us = Owner.this_process()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not _create(self.path, us):  # another may be quicker to take a dead owner's place
                self._take_from(read_owner(self.path), us)
        except OSError as error:
            raise StorageError(
                f"the output folder {self.path.parent} cannot be written ({error.strerror})",
                "Set output.dir (OUTPUT_DIR) to a folder this user may write.",
            ) from error
        self.us = us
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()

    def release(self) -> None:
        """Give the folder back; the lock of another is left alone."""
        self._released.set()
        if self.us is not None and read_owner(self.path) == self.us:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        self.us = None

    def _take_from(self, owner: Owner | None, us: Owner) -> None:
        """Remove a dead owner's lock; raises FolderTakenError if it lives."""
        if not self.path.exists():
            return  # given back just now
        alive = is_alive(owner, us) if owner else None
        if alive is None:
            alive = self._is_being_touched()
        if alive:
            raise FolderTakenError(
                f"{self.path.parent} is being written by another run ({owner}; last sign of life "
                f"{_age_seconds(self.path):.0f} s ago)",
                "Wait for it or stop it, or name another output.dir.",
            )
        _remove(self.path, owner)
        print(f"warning: took {self.path.parent} over from a run that is dead ({owner})", file=sys.stderr, flush=True)

    def _is_being_touched(self) -> bool:
        """Watch the lock until it is touched (True), or has not been for `stale_seconds`."""
        first = _touched_ns(self.path)
        deadline = time.monotonic() + self.stale_seconds - min(self.stale_seconds, _age_seconds(self.path))
        while time.monotonic() < deadline:
            time.sleep(min(0.2, self.beat_seconds))
            if _touched_ns(self.path) != first:
                return self.path.exists()
        return False

    def _beat(self) -> None:
        while not self._released.wait(self.beat_seconds):
            with suppress(OSError):  # a volume that does not answer is the checkpoint's business
                if self._is_lost():
                    self._leave(
                        FolderTakenError(
                            f"{self.path.parent} was taken over by another run ({read_owner(self.path)}) while this "
                            "process stood still",
                            "Nothing to do here: the other run goes on from the last checkpoint.",
                        )
                    )
                    return
                os.utime(self.path)

    def _is_lost(self) -> bool:
        """Whether the lock is another's; who checks a lock may have it out of the way for an instant, so look twice."""
        if read_owner(self.path) == self.us:
            return False
        time.sleep(min(0.5, self.beat_seconds))
        return read_owner(self.path) != self.us and not self._released.is_set()


def read_owner(path: Path) -> Owner | None:
    """Return the owner a lock names; None where there is no lock, or one that its owner has not finished writing."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _create(path: Path, owner: Owner) -> bool:
    """Make the lock, unless there is one: only one of all who try at the same time succeeds, on NFS too."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            try:
                json.dump(dataclasses.asdict(owner), stream, indent=2)
                stream.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _remove(path: Path, judged: Owner | None) -> None:
    """Take away the lock that was judged dead, and no other: somebody else may have replaced it meanwhile."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if read_owner(aside) != judged and not path.exists():
            aside.rename(path)
        else:
            aside.unlink()


def _touched_ns(path: Path) -> int:
    """When the lock was last touched; opened, not only looked up, because NFS then asks its server."""
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _age_seconds(path: Path) -> float:
    """Time since the lock was touched, by the clock of the volume: that of a file made now."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return max(0.0, (_touched_ns(probe) - _touched_ns(path)) / 1e9)
    finally:
        probe.unlink(missing_ok=True)
