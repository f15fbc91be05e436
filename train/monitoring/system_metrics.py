"""What each rank takes of its machine, brought to rank 0 through the ranks' key-value store."""

import json
import threading
from contextlib import suppress

import psutil
import torch
import torch.distributed as dist

SECONDS_BETWEEN_SAMPLES = 10.0


def sample_system() -> dict[str, float]:
    """Sample CPU and memory of this process, its machine and, where there is one, its GPU; units are in the names."""
    process, machine = psutil.Process(), psutil.virtual_memory()
    sample = {
        "cpu_percent": psutil.cpu_percent(),
        "machine_memory_percent": machine.percent,
        "memory_gib": process.memory_info().rss / 2**30,
        "threads": float(process.num_threads()),
    }
    if torch.cuda.is_available():
        sample["gpu_memory_gib"] = torch.cuda.memory_allocated() / 2**30
        sample["gpu_memory_reserved_gib"] = torch.cuda.memory_reserved() / 2**30
        with suppress(ModuleNotFoundError, RuntimeError):  # asks NVML, whose Python package may be missing
            sample["gpu_percent"] = float(torch.cuda.utilization())
    return sample


class SystemMetrics:
    """Samples this rank every few seconds, from a thread; rank 0 can read the latest sample of every rank."""

    def __init__(self, rank: int, world_size: int, store: dist.Store | None) -> None:
        # A store serves one thread at a time; the ranks' own may be waiting for a peer.
        self.rank, self.world_size, self.store = rank, world_size, store.clone() if store is not None else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish_samples, name="system metrics", daemon=True)

    def start(self) -> None:
        if self.store is not None and self.rank != 0:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _publish_samples(self) -> None:
        assert self.store is not None
        with suppress(RuntimeError):  # rank 0 hosts the store, and may leave first
            while not self._stop.wait(SECONDS_BETWEEN_SAMPLES):
                self.store.set(self._key(self.rank), json.dumps(sample_system()))

    def of_all_ranks(self) -> dict[str, float]:
        """Return `rank1/cpu_percent` and so on: rank 0's own now, the others' latest, as far as they have sent any."""
        samples = {0: sample_system()}
        if self.store is not None:
            with suppress(RuntimeError):
                for rank in range(1, self.world_size):
                    if self.store.check([self._key(rank)]):
                        samples[rank] = json.loads(self.store.get(self._key(rank)))
        return {f"rank{rank}/{name}": value for rank, sample in samples.items() for name, value in sample.items()}

    def _key(self, rank: int) -> str:
        return f"system/{rank}"
