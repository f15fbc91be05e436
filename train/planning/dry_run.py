"""`--dry-run`: the resolved configuration with the source of every value, and the sizes of the run it describes."""

import os

from rich.console import Console
from rich.table import Table

from train.batching.steps import refuse_nonsense
from train.config.run_config import ResolvedConfig, field_names
from train.distributed.launch import plan_launch
from train.distributed.topology import check_world_size, read_topology
from train.methods.trl_options import make_sft_config, sft_options
from train.planning.sizes import GIB, RunSizes, run_sizes
from train.run_folder.run_folder import RunFolder


def print_dry_run(resolved: ResolvedConfig) -> None:
    """Print configuration and sizes; raises what the run itself would raise before training."""
    world_size = assumed_world_size(resolved)
    config = resolved.config.settled(world_size)
    sizes = run_sizes(config, world_size)
    console = Console(highlight=False)
    console.print(_configuration_table(resolved))
    console.print(_size_table(sizes))
    if resolved.config.optim.batch_size == "auto":
        console.print(f"memory is for {config.micro_batch_rows} rows at a time; the run measures how many fit")
    # After the tables: whoever is refused sees the numbers that it follows from.
    refuse_nonsense(config, world_size=world_size, num_train_rows=sizes.num_train_rows)
    folder = RunFolder(config.output.dir)
    make_sft_config(
        sft_options(config, world_size=world_size, num_train_rows=sizes.num_train_rows, folder=folder), config.trl
    )


def assumed_world_size(resolved: ResolvedConfig) -> int:
    """Return the ranks this command would run as: of the environment, else of the recipe, else local processes."""
    config = resolved.config.distributed
    if "WORLD_SIZE" in os.environ:
        topology = read_topology(os.environ)
        check_world_size(topology, config)
        return topology.world_size
    plan = plan_launch(os.environ, config.processes)
    return config.world_size or (plan.num_processes if plan else 1)


def _configuration_table(resolved: ResolvedConfig) -> Table:
    table = Table("setting", "value", "from", title=f"recipe {resolved.recipe}")
    values = resolved.config.model_dump(mode="json")
    for name in field_names():
        section, _, field = name.partition(".")
        value = values[section][field] if field else values[section]
        source = resolved.source_of(name)
        table.add_row(name, str(value), source, style="dim" if source == "default" else None)
    return table


def _size_table(sizes: RunSizes) -> Table:
    table = Table("derived", "value", title="sizes", show_header=False)
    for name, value in [
        ("world size", f"{sizes.world_size}"),
        ("effective batch", f"{sizes.effective_batch_size} rows"),
        ("training rows", f"{sizes.num_train_rows:,}"),
        ("validation rows", f"{sizes.num_validation_rows:,}"),
        ("steps", f"{sizes.total_steps:,} ({sizes.steps_per_epoch:,} per epoch)"),
        ("warm-up steps", f"{sizes.warmup_steps:,}"),
        ("learning rate", f"{sizes.learning_rate:g}"),
        ("parameters", str(sizes.parameters)),
        ("memory per device", f"about {sizes.memory_bytes / GIB:.1f} GiB (estimate)"),
    ]:
        table.add_row(name, value)
    return table
