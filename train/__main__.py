"""Train a chat model.

python -m train [RECIPE] [key=value ...] [--dry-run | --preflight] [--nproc N]
python -m train plan [RECIPE] [key=value ...] [--gpus 1,4] [--device l40s]
python -m train diagnose LOGFILE|RUNFOLDER|-
python -m train status RUNFOLDER [--follow]
python -m train report RUNFOLDER

python -m train laptop optim.epochs=2
python -m train smollm3-l40s-x4 --dry-run
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from data import libraries
from train.config.run_config import ResolvedConfig, resolve_config
from train.config.yaml_files import recipe_names
from train.distributed.launch import launch, plan_launch
from train.failure import ConfigError, ExitCode, Phases, exit_code_of, report_failure
from train.fault_tolerance.guards import guarded
from train.run_folder.run_folder import RunFolder

TRAIN = "run"


class TrainsByDefault(TyperGroup):
    """`python -m train RECIPE ...` trains: what does not begin with the name of a command belongs to this one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else [TRAIN, *args])


app = typer.Typer(
    cls=TrainsByDefault, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)

EPILOG = (
    f"Recipes: {', '.join(recipe_names())}; any .yaml file works too. Environment: EPOCHS, BATCH_SIZE, LEARNING_RATE, "
    "DATA_DIR, OUTPUT_DIR, MODEL_NAME, RECIPE. Precedence: command line, environment, recipe, default. "
    "All keys with their values: --dry-run. Other commands, each with its own --help: plan, diagnose, status, report."
)


Arguments = Annotated[list[str] | None, typer.Argument(metavar="RECIPE KEY=VALUE", help="A recipe, then any settings.")]


@app.command(TRAIN, epilog=EPILOG)
def main(
    arguments: Arguments = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print configuration and sizes; train nothing.")] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Check that it would work here; train nothing.")
    ] = False,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes on this machine (default: the recipe's).")] = None,
) -> None:
    """Fine-tune a chat model as a recipe says, on this machine or as one rank of a PyTorchJob."""
    leave(execute(arguments or [], dry_run=dry_run, preflight=preflight, nproc=nproc))


@app.command()
def plan(
    arguments: Arguments = None,
    gpus: Annotated[str, typer.Option(help="Numbers of pods or processes to compare, one device each.")] = "1,4",
    device: Annotated[str | None, typer.Option(help="l40s, a100, h100 or cpu (default: this machine's).")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Gbit/s between the devices, or `measured`: here, by a short all-reduce.")
    ] = None,
    device_tflops: Annotated[float | None, typer.Option(min=0.001, help="Peak TFLOPS, instead of the known.")] = None,
    device_memory: Annotated[float | None, typer.Option(min=0.001, help="GiB, instead of the known.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict work, memory and time of a run on several numbers of devices; train nothing."""

    def predict() -> None:
        resolved = resolve(arguments or [], None)
        prepare_environment(resolved, offline=True)  # a plan asks nothing of the network
        from train.planning.plan_report import PlanRequest, print_plan

        print_plan(resolved, PlanRequest.read(gpus, device, bandwidth, device_tflops, device_memory), as_json=as_json)

    leave(reporting("plan", predict))


@app.command()
def diagnose(
    source: Annotated[str, typer.Argument(metavar="LOGFILE|RUNFOLDER|-", help="What the failed run said.")],
) -> None:
    """Say what a failed run's log means and what to do; exit code 0 if the failure is a known one, else 1."""
    outcome: list[bool] = []

    def recognise() -> None:
        from train.results.diagnose import diagnose_source

        outcome.append(diagnose_source(source))

    leave(reporting("diagnose", recognise) or (ExitCode.DONE if outcome[0] else ExitCode.BUG))


RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUNFOLDER", help="What a run wrote to: its output.dir.")]


@app.command()
def status(
    folder: RunFolderArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, until the run is over.")] = False,
) -> None:
    """Show how a run stands; the exit code is the run's, 0 while it is under way, 1 without a sign of life."""
    outcome: list[int] = []

    def look() -> None:
        from train.results.status import show_status

        outcome.append(show_status(RunFolder(folder), follow=follow))

    leave(reporting("status", look) or outcome[0])


@app.command()
def report(folder: RunFolderArgument) -> None:
    """Make report.html of a run folder again, or of one that is not finished."""

    def make() -> None:
        from train.results.report.page import write_report

        print(write_report(RunFolder(folder)))

    leave(reporting("report", make))


def reporting(phase: str, command: Callable[[], None]) -> int:
    """Run a command that leaves no run folder; returns its exit code, a failure reported."""
    try:
        command()
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, phase=phase, rank=int(os.environ.get("RANK") or 0), run_folder=None)
    return ExitCode.DONE


def execute(arguments: list[str], *, dry_run: bool, preflight: bool, nproc: int | None) -> int:
    """Do what the command line asks; returns the exit code, every failure reported. Libraries load only when needed."""
    phases, folder, resolved = Phases(), None, None
    try:
        resolved = resolve(arguments, nproc)
        folder = None if preflight else resolved.config.output.dir
        prepare_environment(resolved, offline=preflight)
        if dry_run:
            from train.planning.dry_run import print_dry_run

            print_dry_run(resolved)
            return ExitCode.DONE
        plan = plan_launch(os.environ, resolved.config.distributed.processes)
        if plan is not None:
            ranks_meet = resolved.config.distributed
            return launch(plan, sys.argv[1:], ranks_meet.rendezvous_timeout_seconds, ranks_meet.grace_seconds)
        run_rank = check_as_rank if preflight else train_as_rank
        run_rank(resolved, phases)
    except (Exception, KeyboardInterrupt) as error:
        rank = int(os.environ.get("RANK") or 0)
        explained = with_advice(error, resolved, phases.current)
        return report_failure(explained, phase=phases.current, rank=rank, run_folder=folder)
    return ExitCode.DONE


def with_advice(error: BaseException, resolved: ResolvedConfig | None, phase: str) -> BaseException:
    """A failure for want of memory with what would help this configuration; any other as it is."""
    if resolved is None or exit_code_of(error) is not ExitCode.MEMORY:
        return error
    try:
        from train.planning.memory_advice import advised
    except Exception:  # not even memory to load it
        return error
    return advised(error, resolved.config, phase)


def resolve(arguments: list[str], nproc: int | None) -> ResolvedConfig:
    """Recipe and overrides from the positional arguments: the first without '=' is the recipe."""
    recipes = [argument for argument in arguments if "=" not in argument]
    if len(recipes) > 1:
        raise ConfigError(f"one recipe at a time, not {', '.join(recipes)}", "Settings are of the form key=value.")
    overrides = [argument for argument in arguments if "=" in argument]
    if nproc is not None:
        overrides.append(f"distributed.processes={nproc}")
    return resolve_config(recipes[0] if recipes else None, overrides)


def prepare_environment(resolved: ResolvedConfig, *, offline: bool = False) -> None:
    """Tell the libraries what they read when they are imported, so before any of them is."""
    libraries.prepare_environment(offline=offline or resolved.config.model.offline)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|torch")


def check_as_rank(resolved: ResolvedConfig, phases: Phases) -> None:
    """Be one rank of a preflight."""
    from train.distributed.topology import read_topology
    from train.preflight.preflight import preflight

    phases.current = "preflight"
    preflight(resolved, read_topology(os.environ))


def train_as_rank(resolved: ResolvedConfig, phases: Phases) -> None:
    """Be one rank: train, and on the main rank print the outcome."""
    from train.distributed.topology import read_topology

    topology = read_topology(os.environ)
    with guarded(resolved.config, phases, topology.rank, leave) as guards:
        from train.results.summary import print_outcome
        from train.run import train_model

        train_model(resolved, topology, phases, guards)
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
