import time

import torch.distributed as dist

from train.monitoring import system_metrics
from train.monitoring.system_metrics import SystemMetrics, sample_system


def test_system_metrics_of_every_rank_reach_rank_0(monkeypatch):
    monkeypatch.setattr(system_metrics, "SECONDS_BETWEEN_SAMPLES", 0.05)
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    other = SystemMetrics(1, 2, dist.TCPStore("127.0.0.1", store.port, 2, is_master=False))
    other.start()
    mine = SystemMetrics(0, 2, store)
    deadline = time.monotonic() + 20
    while "rank1/memory_gib" not in (found := mine.of_all_ranks()) and time.monotonic() < deadline:
        time.sleep(0.05)
    other.stop()
    assert found["rank1/memory_gib"] > 0
    assert found.keys() == {f"rank{rank}/{name}" for rank in (0, 1) for name in sample_system()}
