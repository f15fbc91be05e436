import time

import pytest
import torch

from train.planning import measure
from train.planning.measure import copied_bytes_per_second, matmul_flops_per_second, this_cpu, timed

CPU = torch.device("cpu")


def test_time_is_that_of_the_work():
    assert timed(lambda: time.sleep(0.05), CPU) >= 0.05
    assert timed(lambda: None, CPU) > 0


@pytest.mark.parametrize(
    ("seconds_of_full_size", "size"),
    [(0.001, 1024), (0.2, 1024), (1.0, 512), (64.0, 256)],  # a size that takes 0.15 s is enough
)
def test_a_product_is_no_larger_than_it_takes_to_tell(monkeypatch, seconds_of_full_size, size):
    def seconds(tried, device, dtype):
        return seconds_of_full_size * (tried / 1024) ** 2

    monkeypatch.setattr(measure, "_seconds_of_matmul", seconds)
    found = matmul_flops_per_second(CPU, torch.float32)
    assert found == pytest.approx(2 * size**3 / seconds(size, CPU, torch.float32))


def test_this_machine_is_measured_and_its_threads_left_alone():
    threads = torch.get_num_threads()
    cpu = this_cpu()
    assert cpu.is_shared
    assert cpu.fp32_tflops > 1e-3
    assert cpu.memory_bytes > 0
    assert torch.get_num_threads() == threads


def test_a_cpu_is_named_by_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr(measure, "usable_cores", lambda: 1)
    assert this_cpu().name == "CPU, 1 core(s)"
    assert copied_bytes_per_second(CPU) > 0
