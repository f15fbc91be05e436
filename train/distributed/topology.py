"""Who this process is among its peers, by torchrun's or the training operator's variables. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass

from train.config.run_config import DistributedConfig
from train.failure import ConfigError, PeerLostError


@dataclass(frozen=True)
class Topology:
    """Says which process this is among its peers, and where they meet."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 29500

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_topology(environment: Mapping[str, str]) -> Topology:
    """Return what torchrun's or the training operator's variables describe; one process where there are none.

    Raises:
        ConfigError: a variable is not a number, or RANK is outside the world.
        PeerLostError: WORLD_SIZE promises peers, but nothing says where they are.

    >>> operator = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
    >>> read_topology(operator)
    Topology(rank=3, local_rank=0, world_size=4, local_world_size=1, master_addr='job-master-0', master_port=23456)
    """
    world_size = _integer(environment, "WORLD_SIZE", 1)
    if world_size == 1:
        return Topology()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise PeerLostError(
            f"WORLD_SIZE={world_size} promises {world_size - 1} peer(s), but nothing says where they are "
            f"(not set: {', '.join(missing)})",
            "Unset WORLD_SIZE to train alone, or start the ranks with --nproc or a PyTorchJob.",
        )
    rank = _integer(environment, "RANK", 0)
    if not 0 <= rank < world_size:
        raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={world_size}")
    return Topology(
        rank=rank,
        local_rank=_integer(environment, "LOCAL_RANK", 0),
        world_size=world_size,
        local_world_size=_integer(environment, "LOCAL_WORLD_SIZE", 1),
        master_addr=environment["MASTER_ADDR"],
        master_port=_integer(environment, "MASTER_PORT", 0),
    )


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)  # set to nothing is not set
    if not text.lstrip("-").isdigit():
        raise ConfigError(f"the environment variable {name} must be an integer, not '{text}'")
    return int(text)


def check_world_size(topology: Topology, config: DistributedConfig) -> None:
    """Refuse to start alone, or in another company, when the recipe says how many ranks it is made for."""
    if config.world_size not in (None, topology.world_size):
        raise ConfigError(
            f"this recipe is made for distributed.world_size={config.world_size}, but {topology.world_size} "
            "process(es) were started",
            f"Start {config.world_size} ranks, or set distributed.world_size={topology.world_size} "
            "(the effective batch and the scaled learning rate change with it).",
        )
