"""Several local processes through torch's launcher: who starts them, and whose exit code survives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from train.distributed.launch import LocalLaunch, plan_launch
from train.failure import ConfigError

ROOT = Path(__file__).parents[3]
OPERATOR = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "PET_NNODES": "4"}


def test_a_child_of_the_launcher_is_a_rank():
    assert plan_launch({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 2) is None


def test_a_pod_with_one_process_is_a_rank_whatever_the_recipe_says():
    assert plan_launch({**OPERATOR, "PET_NPROC_PER_NODE": "1"}, 2) is None


def test_a_pod_with_several_processes_launches_them():
    environment = {**OPERATOR, "PET_NPROC_PER_NODE": "2", "PET_NNODES": "2", "PET_NODE_RANK": "1"}
    assert plan_launch(environment, 1) == LocalLaunch(num_processes=2, num_nodes=2, node_rank=1)


def test_auto_counts_the_cores_where_there_is_no_accelerator():
    plan = plan_launch({**OPERATOR, "PET_NPROC_PER_NODE": "cpu"}, 1)
    assert plan is None if os.cpu_count() == 1 else plan.num_processes >= 2


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="PET_NPROC_PER_NODE"):
        plan_launch({**OPERATOR, "PET_NPROC_PER_NODE": "some"}, 1)


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(6 if rank == 1 else time.sleep(30))", 6),
        ("sys.exit(203 if rank == 0 else time.sleep(30))", 203),
        ("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(30)", 137),
        pytest.param(
            "os.kill(os.getpid(), 19) if rank == 0 else sys.exit(203)",  # frozen: deaf to SIGTERM, killed after 30 s
            203,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_first_failure_gives_the_exit_code(tmp_path, child, expected):
    """`launch` runs `python -m train`; here a stand-in of that name, so that only the launcher is under test."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").touch()
    program = f"import os, sys, time\nrank = int(os.environ['RANK'])\n{child}\n"
    (tmp_path / "train" / "__main__.py").write_text(program)
    launcher = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from train.distributed.launch import LocalLaunch, launch\n"
        "sys.exit(launch(LocalLaunch(2), [], 60))\n"
    )
    process = subprocess.run([sys.executable, "-P", "-c", launcher], cwd=tmp_path, timeout=120, capture_output=True)
    assert process.returncode == expected, process.stderr
    assert (b"error: rank 1 was killed by SIGKILL" in process.stderr) == (expected == 137)
