"""Train a chat model.

python -m train [RECIPE] [key=value ...] [--dry-run] [--nproc N]

python -m train laptop optim.epochs=2
python -m train smollm3-l40s-x4 --dry-run
"""

import os
import sys
import warnings
from typing import Annotated

import typer

from train.config import ResolvedConfig, recipe_names, resolve_config
from train.failure import ConfigError, ExitCode, Phases, report_failure
from train.launch import launch, plan_launch

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

EPILOG = (
    f"Recipes: {', '.join(recipe_names())}; any .yaml file works too. Environment: EPOCHS, BATCH_SIZE, LEARNING_RATE, "
    "DATA_DIR, OUTPUT_DIR, MODEL_NAME, RECIPE. Precedence: command line, environment, recipe, default. "
    "All keys with their values: --dry-run."
)


@app.command(epilog=EPILOG)
def main(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE KEY=VALUE", help="A recipe, then any settings.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print configuration and sizes; train nothing.")] = False,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes on this machine (default: the recipe's).")] = None,
) -> None:
    """Fine-tune a chat model as a recipe says, on this machine or as one rank of a PyTorchJob."""
    leave(execute(arguments or [], dry_run=dry_run, nproc=nproc))


def execute(arguments: list[str], *, dry_run: bool, nproc: int | None) -> int:
    """Do what the command line asks; returns the exit code, every failure reported. Libraries load only when needed."""
    phases, folder = Phases(), None
    try:
        resolved = resolve(arguments, nproc)
        folder = resolved.config.output.dir
        prepare_environment(resolved)
        if dry_run:
            from train.dry_run import print_dry_run

            print_dry_run(resolved)
            return ExitCode.DONE
        plan = plan_launch(os.environ, resolved.config.distributed.processes)
        if plan is not None:
            return launch(plan, sys.argv[1:], resolved.config.distributed.rendezvous_timeout_seconds)
        train_as_rank(resolved, phases)
    except (Exception, KeyboardInterrupt) as error:
        rank = int(os.environ.get("RANK") or 0)
        return report_failure(error, phase=phases.current, rank=rank, run_folder=folder)
    return ExitCode.DONE


def resolve(arguments: list[str], nproc: int | None) -> ResolvedConfig:
    """Recipe and overrides from the positional arguments: the first without '=' is the recipe."""
    recipes = [argument for argument in arguments if "=" not in argument]
    if len(recipes) > 1:
        raise ConfigError(f"one recipe at a time, not {', '.join(recipes)}", "Settings are of the form key=value.")
    overrides = [argument for argument in arguments if "=" in argument]
    if nproc is not None:
        overrides.append(f"distributed.processes={nproc}")
    return resolve_config(recipes[0] if recipes else None, overrides)


def prepare_environment(resolved: ResolvedConfig) -> None:
    """What libraries read when they are imported, so it is set before any of them is."""
    if resolved.config.model.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|torch")


def train_as_rank(resolved: ResolvedConfig, phases: Phases) -> None:
    """Be one rank: train, and on the main rank print the outcome."""
    from train.artifacts import RunFolder
    from train.distributed import read_topology

    topology = read_topology(os.environ)
    from train.run import run
    from train.summary import print_outcome

    run(resolved, topology, phases)
    if topology.is_main:
        print_outcome(RunFolder(resolved.config.output.dir))


def leave(code: int) -> None:
    """End the process at once on a failure: a collective library must not wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code != ExitCode.DONE:
        os._exit(code)


if __name__ == "__main__":
    app()
