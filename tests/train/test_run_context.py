from tests.tiny_runs import run_of
from train.config.run_config import resolve_config


def test_a_run_knows_its_sizes_and_its_place():
    run = run_of(resolve_config("smollm3-l40s-x4", [], {}), world_size=4)
    assert run.config is run.resolved.config
    assert (run.world_size, run.effective_batch_size, run.is_main) == (4, 64, True)
