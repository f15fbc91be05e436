"""Two processes over gloo: what DDP sends between them, how fast, and what they agree on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.free_ports import free_port
from train.distributed import exchange
from train.failure import ConfigError

ROOT = Path(__file__).parents[3]

PROGRAM = """
import json, os, sys
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from train.planning.measure import measure_link
from train.config.run_config import DistributedConfig
from train.distributed.group import join
from train.distributed.topology import read_topology
from train.distributed.exchange import broadcast_only_what_trains, check_gradient_compression, round_gradients_to_bf16

ranks = join(read_topology(os.environ), DistributedConfig(rendezvous_timeout_seconds=60))
rank = ranks.topology.rank


def model_of_this_rank():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 + rank)
    model[0].requires_grad_(False)
    model.register_buffer("constant", torch.tensor([float(rank)]))
    broadcast_only_what_trains(model)
    return model


def gradient_after(compression):
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs()])
    if compression == "bf16":
        check_gradient_compression(compression)
        round_gradients_to_bf16(accelerator)
    wrapped = accelerator.prepare_model(model_of_this_rank())
    frozen_and_trained = [wrapped.module[0].weight[0, 0].item(), wrapped.module[1].weight[0, 0].item()]
    output = wrapped(torch.tensor([[1.0, 1.0 + 2**-12]])) * (1 + 2**-12)
    output.sum().backward()
    return [*frozen_and_trained, wrapped.module.constant.item(), wrapped.module[1].weight.grad[0, 0].item()]


link = measure_link(2)
print(json.dumps({
    "exact": gradient_after("none"),
    "rounded": gradient_after("bf16"),
    "bytes_per_second": link.bytes_per_second,
    "smallest": ranks.smallest(7 - rank),
}))
ranks.leave()
"""


@pytest.fixture(scope="module")
def both_ranks():
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=os.environ
            | {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_only_what_trains_is_broadcast(both_ranks):
    frozen, trained, constant, _ = zip(*(rank["exact"] for rank in both_ranks), strict=True)
    assert frozen == (1.0, 2.0)  # each rank keeps its own: nothing was sent
    assert constant == (0.0, 1.0)
    assert trained == (1.0, 1.0)  # rank 0's


def test_gradients_are_the_mean_of_both_ranks(both_ranks):
    hidden = [(rank + 1) * (2 + 2**-12) + rank + 1 for rank in (0, 1)]
    expected = sum(hidden) / 2 * (1 + 2**-12)
    assert [rank["exact"][3] for rank in both_ranks] == pytest.approx([expected, expected], rel=1e-6)


def test_rounded_gradients_agree_to_bf16_and_no_further(both_ranks):
    exact, rounded = both_ranks[0]["exact"][3], both_ranks[0]["rounded"][3]
    assert both_ranks[1]["rounded"][3] == rounded
    assert rounded == torch.tensor(rounded).bfloat16().item()
    assert 0 < abs(rounded - exact) / exact <= 2**-7


def test_bandwidth_is_the_same_number_on_both_ranks(both_ranks):
    rates = [rank["bytes_per_second"] for rank in both_ranks]
    assert rates[0] == rates[1] > 1e6


def test_the_smallest_of_all(both_ranks):
    assert [rank["smallest"] for rank in both_ranks] == [6, 6]


def test_a_library_that_cannot_add_bf16_is_refused(monkeypatch):
    def refuse(_):
        raise RuntimeError("Invalid scalar type\nmore")

    monkeypatch.setattr(exchange.dist, "all_reduce", refuse)
    exchange.check_gradient_compression("none")
    with pytest.raises(ConfigError) as raised:
        exchange.check_gradient_compression("bf16")
    assert str(raised.value) == (
        "distributed.gradient_compression=bf16 is not possible here: Invalid scalar type. "
        "Set distributed.gradient_compression=none."
    )
