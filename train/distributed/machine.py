"""What this machine gives the process: cores, memory within its limits, folders it may write, a user. No torch."""

import ctypes
import getpass
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  a mount point whose size is asked for, not a file we make there
PROBE_BYTES = 32 * 2**20

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def usable_cores() -> int:
    """Return how many cores this process may use (where the system can tell; macOS cannot: then all of them)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let the memory of freed tensors serve the next ones, rather than go back to the system.

    glibc maps a block of more than 32 MiB anew each time and unmaps it when it is freed, and the kernel then zeroes all
    of its pages again. Logits, their gradients and the like are such blocks: of the CPU time of `make train` the kernel
    took 30 % without this and 3 % with it (`time make train`, 2 cores, 2026-11-21). Not for a run on a GPU, whose
    host would keep what loading the model took. Under another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Return the host memory this process can still get: what the machine, a container or ulimit -v leaves it."""
    available: int = min(psutil.virtual_memory().available, _address_space_left_bytes())
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, usage = _number(cgroup / limit_name), _number(cgroup / usage_name)
        if limit is not None and usage is not None:
            available = min(available, max(0, limit - usage))
    return available


def _address_space_left_bytes() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    held: int = psutil.Process().memory_info().vms
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(0, limit - held)


def _number(path: Path) -> int | None:
    """The number in a cgroup file; None where there is no such file, or it says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def shared_memory_bytes() -> int | None:
    """Return the size of /dev/shm; None on systems without one."""
    return shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None


def free_bytes(folder: Path) -> int:
    """Return the free space where `folder` is, or would be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def user_name() -> str:
    """Say who we are; in a container that is often a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no passwd entry: KeyError, and OSError from Python 3.13 on
        return f"{os.getuid()} (without a name)"


@dataclass(frozen=True)
class VolumeSpeed:
    write_bytes_per_second: float
    flush_seconds: float
    """How long fsync of a few bytes takes: every file of a checkpoint pays it."""


def prove_volume(folder: Path, num_bytes: int = PROBE_BYTES) -> VolumeSpeed:
    """Do in `folder` what a checkpoint does: write, fsync, rename, read back, lock. What it made is removed again.

    Raises:
        OSError: one of them does not work; the message names which.
    """
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preflight-", dir=folder) as probe:
            return _prove(Path(probe), num_bytes)
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _prove(probe: Path, num_bytes: int) -> VolumeSpeed:
    written, renamed = probe / "written", probe / "renamed"
    seconds = _write_and_flush(written, os.urandom(2**20), num_bytes)  # random: some volumes compress
    flush_seconds = _write_and_flush(probe / "small", b"x", 1)
    written.replace(renamed)
    if written.exists() or renamed.stat().st_size != num_bytes:
        raise OSError(f"a file renamed in {probe.parent} did not arrive whole")
    lock = FileLock(probe / "lock")
    try:
        with lock.acquire(timeout=5):
            pass
    except (Timeout, NotImplementedError) as error:
        raise OSError(f"files in {probe.parent} cannot be locked ({error})") from error
    return VolumeSpeed(num_bytes / max(seconds, 1e-9), flush_seconds)


def _write_and_flush(path: Path, piece: bytes, num_bytes: int) -> float:
    """Seconds to write `num_bytes` in pieces and have them on the disk."""
    start = time.monotonic()
    with path.open("wb") as stream:
        for _ in range(num_bytes // len(piece)):
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return time.monotonic() - start
