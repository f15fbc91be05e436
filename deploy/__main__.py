"""Bring a training job to a cluster, follow it, and bring the model back.

python -m deploy preflight openshift-ai
python -m deploy render openshift-ai | kubectl apply -f -
python -m deploy apply openshift-ai --image REGISTRY/fieldcraft@sha256:... && python -m deploy watch openshift-ai
python -m deploy fetch openshift-ai

Exit codes: 0 done; 2 bad command line, profile or manifest; 10 cluster unreachable; 11 not allowed; 12 something is
missing; 13 in the way; 14 job failed (its pod's exit code, where known); 15 not in time or not intact; 16 refused by
the cluster; 130 Ctrl-C; 143 SIGTERM.
"""

import enum
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deploy.errors import DeployError, ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.manifests import render, to_yaml
from deploy.jobs.meaning import pod_state
from deploy.kube import apply as applying
from deploy.kube import fetch as fetching
from deploy.kube.client import Cluster
from deploy.kube.logs import all_lines, rank_lines
from deploy.kube.preflight import checks, gather, print_checks
from deploy.kube.watch import (
    WATCH_PATIENCE_SECONDS,
    View,
    follow,
    look,
    pick_display,
    read_progress,
    screen,
    status_record,
)
from deploy.profile import Deployment, plan_deployment, profile_names
from deploy.serving.kserve import render_serving

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
P = ParamSpec("P")
WIDE_COLUMNS = 240


class DryRun(enum.StrEnum):
    client = "client"
    server = "server"


ProfileArgument = Annotated[str, typer.Argument(help=f"{', '.join(profile_names())}, or a .yaml file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of the profile or the run.")]
ImageOption = Annotated[str | None, typer.Option(help="Image to run; better with its digest, name@sha256:...")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the profile's.")]
ContextOption = Annotated[str | None, typer.Option(help="Of the kubeconfig. Default: the current one.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds to wait for pods to end, or to start.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived: the command leaves as with Ctrl-C, and cleans up on the way."""


def stop_on_sigterm() -> None:
    """Make SIGTERM raise `Stopped`, so that `with` and `finally` do their part."""

    def stop(*_: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def reporting(when_interrupted: str) -> Callable[[Callable[P, int | None]], Callable[P, None]]:
    """Make failures of a command, Ctrl-C and SIGTERM among them, one line on stderr and an exit code."""

    def decorate(command: Callable[P, int | None]) -> Callable[P, None]:
        @wraps(command)
        def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
            stop_on_sigterm()
            try:
                code = int(command(*arguments, **options) or ExitCode.DONE)
            except DeployError as error:
                say(f"error: {error} [exit {int(error.exit_code)}]")
                code = int(error.exit_code)
            except KeyboardInterrupt as interrupt:
                say(f"interrupted: {'; '.join(getattr(interrupt, '__notes__', [when_interrupted]))}")
                code = ExitCode.STOPPED if isinstance(interrupt, Stopped) else ExitCode.INTERRUPTED
            except BrokenPipeError:  # `| head` has seen enough
                sys.stderr.close()
                code = ExitCode.DONE
            raise typer.Exit(int(code))

        return wrapped

    return decorate


def say(text: str) -> None:
    """Print a line for people; stdout is for what was asked."""
    print(text, file=sys.stderr, flush=True)


def wide_console() -> Console:
    """Take the terminal's width on a terminal; elsewhere lines are wide, for programs look for sentences on one."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE_COLUMNS)


def connect(deployment: Deployment, context: str | None) -> Cluster:
    """Open the cluster that the context names, in the profile's namespace."""
    return Cluster.connect(deployment.profile.namespace, context, say)


@app.command("render")
@reporting("nothing was changed")
def render_command(
    profile: ProfileArgument, settings: SetOption = None, image: ImageOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,  # accepted everywhere; here there is no cluster to choose
) -> None:  # fmt: skip
    """Print the manifests as YAML; `kubectl apply -f -` takes them unchanged."""
    deployment = plan_deployment(profile, settings=settings or (), image=image, namespace=namespace, context=context)
    print(to_yaml(render(deployment), profile), end="")


@app.command("render-serving")
@reporting("nothing was changed")
def render_serving_command(
    profile: ProfileArgument,
    vllm_image: Annotated[str, typer.Option(help="Of the cluster's vLLM runtime; better with its digest.")],
    settings: SetOption = None, namespace: NamespaceOption = None,
    name: Annotated[str | None, typer.Option(help="Of the service and the model. Default: the job's.")] = None,
    max_model_tokens: Annotated[int, typer.Option(min=1, help="Prompt and answer together.")] = 4096,
) -> None:  # fmt: skip
    """Print a KServe runtime and service that serve the trained model from its volume with vLLM."""
    deployment = plan_deployment(profile, settings=settings or (), namespace=namespace)
    manifests = render_serving(deployment, vllm_image=vllm_image, name=name, max_model_tokens=max_model_tokens)
    print(to_yaml(manifests, profile, "render-serving"), end="")


@app.command("preflight")
@reporting("nothing was changed")
def preflight_command(
    profile: ProfileArgument, settings: SetOption = None, image: ImageOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> int:  # fmt: skip
    """Find out what would stop the job, without creating anything."""
    deployment = plan_deployment(profile, settings=settings or (), image=image, namespace=namespace, context=context)
    render(deployment)
    cluster = connect(deployment, context)
    console = wide_console()
    console.print(f"{deployment.profile.description or profile} at {cluster.host}", highlight=False, markup=False)
    return print_checks(checks(deployment.profile, gather(cluster, deployment)), console)


@app.command("apply")
@reporting("nothing was changed")
def apply_command(
    profile: ProfileArgument, settings: SetOption = None, image: ImageOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="End a running job of that name first.")] = False,
    dry_run: Annotated[DryRun | None, typer.Option(help="client: say what; server: let the cluster check.")] = None,
    yes: YesOption = False, timeout: TimeoutOption = 300.0,
) -> None:  # fmt: skip
    """Create the volumes, the network policy and the job."""
    deployment = plan_deployment(profile, settings=settings or (), image=image, namespace=namespace, context=context)
    manifests = render(deployment)
    if dry_run is DryRun.client:
        for manifest in manifests:
            say(f"would create, or keep: {manifest['kind']}/{manifest['metadata']['name']}")
        return
    cluster = connect(deployment, context)
    if not cluster.serves(pytorchjob.API_VERSION, pytorchjob.PLURAL):
        raise DeployError(pytorchjob.NOT_SERVED, pytorchjob.INSTALL, exit_code=ExitCode.MISSING)
    steps = applying.plan_steps(manifests, applying.look_up(cluster, manifests), replace=replace)
    say(f"namespace {cluster.namespace} at {cluster.host}:")
    for step in steps:
        say(f"  {step.line()}")
    if dry_run is None and any(step.action == "replace" and step.kind == pytorchjob.KIND for step in steps):
        confirm(f"Delete the job {deployment.profile.job} and start anew?", yes=yes)
    applying.carry_out(cluster, steps, dry_run=dry_run is not None, timeout_seconds=timeout, say=say)
    if dry_run is None:
        say(f"follow it: {deployment.command_line('watch')}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless told not to; without a terminal to ask on, refuse."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeployError(f"there is no terminal to ask on: {question.rstrip('?')}", "Add --yes.")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or the end of input
        raise KeyboardInterrupt from None
    if not agreed:
        raise DeployError("nothing was changed")


@app.command("watch")
@reporting("the job goes on; watch it again whenever you like")
def watch_command(
    profile: ProfileArgument, settings: SetOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None, timeout: TimeoutOption = 300.0,
    start_timeout: Annotated[
        float | None, typer.Option(min=1, help="Give up if not all pods have started. Default: wait for ever.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds that the cluster may stay silent.")
    ] = WATCH_PATIENCE_SECONDS,
) -> int:  # fmt: skip
    """Follow the job to its end; the exit code is the job's."""
    deployment = plan_deployment(profile, settings=settings or (), namespace=namespace, context=context)
    cluster = connect(deployment, context)
    with pick_display(Console()) as display:

        def restart() -> None:
            applying.restart_job(cluster, deployment.profile.job, timeout_seconds=timeout, say=display.say)

        cluster.notice, cluster.patience_seconds = display.say, patience
        ended = follow(cluster, deployment, display, restart, start_seconds=start_timeout)
    for line in (ended.sentence, *ended.details):
        say(line)
    if ended.exit_code == ExitCode.DONE:
        say(f"bring the model back: {deployment.command_line('fetch')}")
    else:
        say(f"more: {deployment.command_line('logs', '--all')} [exit {int(ended.exit_code)}]")
    return ended.exit_code


@app.command("status")
@reporting("nothing was changed")
def status_command(
    profile: ProfileArgument, settings: SetOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:  # fmt: skip
    """Show the job once."""
    deployment = plan_deployment(profile, settings=settings or (), namespace=namespace, context=context)
    cluster = connect(deployment, context)
    snapshot = look(cluster, deployment)
    progress = read_progress(cluster, deployment, [pod_state(pod) for pod in snapshot.pods])
    view = View(deployment.profile.job, snapshot, progress)
    if as_json:
        print(json.dumps(status_record(view), indent=2))
    else:
        wide_console().print(screen(view))
    return ExitCode.DONE if snapshot.job else ExitCode.MISSING


@app.command("logs")
@reporting("the job goes on")
def logs_command(
    profile: ProfileArgument, settings: SetOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
    rank: Annotated[int, typer.Option(min=0, help="Whose log.")] = 0,
    all_ranks: Annotated[bool, typer.Option("--all", help="Of all ranks, each line with its rank.")] = False,
    follow_log: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
) -> None:  # fmt: skip
    """Print the log of a rank, or of all."""
    deployment = plan_deployment(profile, settings=settings or (), namespace=namespace, context=context)
    cluster = connect(deployment, context)
    if all_ranks:
        for number, line in all_lines(cluster, deployment, follow=follow_log, tail=tail, say=say):
            print(f"[{number}] {line}", flush=True)
    else:
        for _, line in rank_lines(cluster, deployment, rank, follow=follow_log, tail=tail):
            print(line, flush=True)


@app.command("fetch")
@reporting("the reading pod is removed, what has arrived stays; start again and it goes on from there")
def fetch_command(
    profile: ProfileArgument, settings: SetOption = None, image: ImageOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder. Default: outputs/JOB.")] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Bring these too.")] = False,
    timeout: TimeoutOption = 86_400.0,
    start_timeout: Annotated[float, typer.Option(min=1, help="Seconds for the reading pod to start.")] = 600.0,
) -> None:  # fmt: skip
    """Bring the run folder back, checked against its manifest. It waits while the job runs, and can be repeated."""
    deployment = plan_deployment(profile, settings=settings or (), image=image, namespace=namespace, context=context)
    target = output or Path("outputs") / deployment.profile.job
    cluster = connect(deployment, context)
    job = fetching.wait_for_end(cluster, deployment, timeout_seconds=timeout, say=say)
    if image is None:
        deployment = fetching.with_image_of(deployment, job)
    with (
        fetching.extractor(cluster, deployment, timeout_seconds=start_timeout, say=say) as source,
        transfer_display() as advance,
    ):
        travelled = fetching.fetch_run(source, target, checkpoints=checkpoints, say=say, advance=advance)
    say(f"{target}: complete, every sha256 as published ({travelled:,} bytes received)")
    say(f'ask it: python -m inference.ask_tuned_model --run {target} "..."')


@contextmanager
def transfer_display() -> Iterator[Callable[[fetching.RemoteFile], fetching.Advance]]:
    """Show a bar per file on a terminal, a line per file elsewhere."""
    if not sys.stderr.isatty():

        def announce(file: fetching.RemoteFile) -> fetching.Advance:
            say(f"{file.path} ({file.num_bytes:,} bytes)")
            return lambda _: None

        yield announce
        return
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:

        def add(file: fetching.RemoteFile) -> fetching.Advance:
            task = progress.add_task(file.path, total=file.num_bytes)
            return lambda num_bytes: progress.advance(task, num_bytes)

        yield add


@app.command("delete")
@reporting("deletion was asked for and goes on; `status` shows what is left")
def delete_command(
    profile: ProfileArgument, settings: SetOption = None, namespace: NamespaceOption = None,
    context: ContextOption = None,
    volumes: Annotated[bool, typer.Option("--volumes", help="The volumes too, with every model on them.")] = False,
    yes: YesOption = False, timeout: TimeoutOption = 300.0,
) -> None:  # fmt: skip
    """Delete the job and its network policy, and wait until its pods are gone. Volumes stay unless asked for."""
    deployment = plan_deployment(profile, settings=settings or (), namespace=namespace, context=context)
    cluster, job = connect(deployment, context), deployment.profile.job
    claims = [volume.claim for volume in deployment.profile.volumes] if volumes else []
    if claims or cluster.find(pytorchjob.KIND, job) is not None:
        what = f"and the volumes {', '.join(claims)} for good" if claims else "(its volumes stay)"
        confirm(f"Delete the job {job} in namespace {cluster.namespace} {what}?", yes=yes)
    found = applying.delete_job(cluster, job, timeout_seconds=timeout, say=say)
    cluster.delete("NetworkPolicy", job)
    for claim in claims:
        cluster.delete("PersistentVolumeClaim", claim)
    said = f"job {job} is deleted" if found else f"there was no job {job}"
    say(f"{said}; volumes deleted: {', '.join(claims)}" if claims else f"{said}; its volumes stay")


if __name__ == "__main__":
    app()
