"""Several processes on this machine, through torch's own elastic launcher, with our exit codes kept.

Used for `--nproc N` on one machine and for `nprocPerNode` > 1 in a pod. The launcher by itself answers every failure
with exit code 1; here the exit code of the first process that failed becomes the exit code of the whole.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.distributed.machine import usable_cores
from train.failure import ConfigError, ExitCode


@dataclass(frozen=True)
class LocalLaunch:
    """Says how many processes this machine starts, and its place among the machines of the job."""

    num_processes: int
    num_nodes: int = 1
    node_rank: int = 0


def plan_launch(environment: Mapping[str, str], configured_processes: int) -> LocalLaunch | None:
    """Return what to start here, or None when this process is itself a rank.

    A process that has LOCAL_RANK is a rank. In a pod PET_NPROC_PER_NODE decides; elsewhere the configuration does.

    >>> plan_launch({}, 2)
    LocalLaunch(num_processes=2, num_nodes=1, node_rank=0)
    >>> plan_launch({"WORLD_SIZE": "4", "RANK": "1", "PET_NPROC_PER_NODE": "1"}, 2) is None
    True
    >>> plan_launch({"WORLD_SIZE": "4", "RANK": "1", "PET_NPROC_PER_NODE": "2", "PET_NNODES": "2"}, 1)
    LocalLaunch(num_processes=2, num_nodes=2, node_rank=1)
    """
    if "LOCAL_RANK" in environment:
        return None
    if "WORLD_SIZE" not in environment:
        return LocalLaunch(configured_processes) if configured_processes > 1 else None
    num_processes = _processes_per_node(environment.get("PET_NPROC_PER_NODE", "1"))
    if num_processes == 1:
        return None
    node_rank = environment.get("PET_NODE_RANK") or environment.get("RANK", "0")
    return LocalLaunch(num_processes, int(environment.get("PET_NNODES", "1")), int(node_rank))


def _processes_per_node(text: str) -> int:
    """`nprocPerNode` as the operator passes it on: a number, or `auto`, `gpu`, `cpu` as torchrun reads them."""
    if text.isdigit() and int(text) > 0:
        return int(text)
    if text not in ("auto", "gpu", "cpu"):
        raise ConfigError(f"PET_NPROC_PER_NODE must be a number, 'auto', 'gpu' or 'cpu', not '{text}'")
    from torch.distributed.run import determine_local_world_size

    return int(determine_local_world_size(text))


def launch(
    plan: LocalLaunch, arguments: Sequence[str], rendezvous_timeout_seconds: int, grace_seconds: int = 30
) -> int:
    """Run `python -m train ARGUMENTS` in `plan.num_processes` processes; returns the exit code of the whole.

    SIGTERM and Ctrl-C are passed on to the processes, which then have `grace_seconds` to save and leave.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Without a limit each process takes all cores: 3 steps took 93 s instead of 3 s.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // plan.num_processes)))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(grace_seconds)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our processes speak for themselves
    several_nodes = plan.num_nodes > 1
    config = LaunchConfig(
        min_nodes=plan.num_nodes,
        max_nodes=plan.num_nodes,
        nproc_per_node=plan.num_processes,
        run_id="train",
        rdzv_backend="static" if several_nodes else "c10d",
        rdzv_endpoint=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}" if several_nodes else "localhost:0",
        rdzv_configs={"rank": plan.node_rank, "timeout": rendezvous_timeout_seconds},
        max_restarts=0,  # to start again is for whoever reads the exit code: Kubernetes, or a person
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "train", *arguments)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        if first.exitcode < 0:  # the others have spoken for themselves
            print(f"error: rank {rank} was killed by {first.signal_name()}", file=sys.stderr, flush=True)
        return _as_exit_code(first.exitcode)
    except SignalException as error:
        return ExitCode.INTERRUPTED if error.sigval.name == "SIGINT" else ExitCode.STOPPED
    except (RendezvousError, TimeoutError) as error:
        print(f"error: the machines of this job did not meet: {error}", file=sys.stderr)
        return ExitCode.PEER
    return ExitCode.DONE


def _as_exit_code(code: int) -> int:
    """A shell's exit code: a process killed by signal n counts as 128 + n.

    >>> _as_exit_code(-9), _as_exit_code(203)
    (137, 203)
    """
    return 128 - code if code < 0 else code
