import pytest

from train.config.run_config import DistributedConfig
from train.distributed.topology import Topology, check_world_size, read_topology
from train.failure import ConfigError, PeerLostError


def test_no_environment_is_one_process():
    assert read_topology({}) == Topology()


def test_world_of_one_needs_no_address():
    assert read_topology({"WORLD_SIZE": "1", "RANK": "0"}) == Topology()


@pytest.mark.parametrize(
    ("environment", "error", "says"),
    [
        ({"WORLD_SIZE": "4"}, PeerLostError, "3 peer(s), but nothing says where they are (not set: RANK, MASTER_ADDR"),
        ({"WORLD_SIZE": "four"}, ConfigError, "WORLD_SIZE must be an integer, not 'four'"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "m", "MASTER_PORT": "1"},
            ConfigError,
            "RANK=2 is not below WORLD_SIZE=2",
        ),
    ],
)
def test_bad_environments(environment, error, says):
    with pytest.raises(error) as raised:
        read_topology(environment)
    assert says in str(raised.value)


def test_a_recipe_for_four_does_not_run_alone():
    with pytest.raises(ConfigError, match=r"made for distributed.world_size=4, but 1 process"):
        check_world_size(Topology(), DistributedConfig(world_size=4))
