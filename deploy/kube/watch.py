"""A job is followed here, as one screen or as lines, until it has ended; its exit code is the one it deserves."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from deploy.errors import DeployError, ExitCode
from deploy.jobs import pytorchjob
from deploy.jobs.meaning import RETRYABLE_EXIT_CODE, Outcome, PodState, Snapshot, explanations, outcome, pod_state
from deploy.kube.client import Cluster
from deploy.profile import Deployment
from train.run_folder.run_folder import RunFolder

Object = dict[str, Any]

POLL_SECONDS = 2.0
PROGRESS_SECONDS = 5.0
WATCH_PATIENCE_SECONDS = 600.0
"""How long a cluster may stay silent: an API server that is being updated is away for minutes, the job is not."""
NUM_EVENTS = 5


@dataclass(frozen=True)
class View:
    """A view is what one look at the job found; `progress` is the run's status.json, None if it cannot be read."""

    name: str
    snapshot: Snapshot
    progress: Object | None = None

    @property
    def pods(self) -> list[PodState]:
        """Return the states of the pods, by rank."""
        return sorted(map(pod_state, self.snapshot.pods), key=lambda state: state.rank)


def look(cluster: Cluster, deployment: Deployment) -> Snapshot:
    """Return the job, its pods, their events and the volumes as they are now."""
    profile = deployment.profile
    # The job first: one that has failed must not meet pods from before that.
    job = cluster.find(pytorchjob.KIND, profile.job)
    pods = cluster.items("Pod", labels=pytorchjob.pod_selector(profile.job))
    claims = [volume.claim for volume in profile.volumes]
    found = [cluster.find("PersistentVolumeClaim", claim) for claim in claims]
    # All events of the namespace are read at once: a selector takes one name, and this is every two seconds.
    names = {profile.job, *claims, *(pod["metadata"]["name"] for pod in pods)}
    events = [
        event
        for event in cluster.items_if_allowed("Event") or []
        if (event.get("involvedObject") or {}).get("name") in names
    ]
    return Snapshot(
        job=job,
        pods=pods,
        events=sorted(events, key=_time_of),
        claims=[claim for claim in found if claim],
    )


def _time_of(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def read_progress(cluster: Cluster, deployment: Deployment, pods: Sequence[PodState]) -> Object | None:
    """Return the run's `status.json`, read in the master; None if it is not there yet or may not be read."""
    # Rank 0 alone writes the run folder, and only a running container can be asked.
    master = next((pod for pod in pods if pod.rank == 0 and pod.phase == "Running"), None)
    if master is None:
        return None
    content = cluster.read_file(master.name, pytorchjob.CONTAINER, str(RunFolder(deployment.config.output.dir).status))
    try:
        progress = json.loads(content or "null")
    except ValueError:
        return None
    return progress if isinstance(progress, dict) else None


def progress_text(progress: Object | None) -> str:
    """Return what `status.json` says in one line, '' without one; loss in nats per token.

    >>> progress_text({"phase": "training", "step": 12, "total_steps": 40, "percent": 30.0, "loss": 3.25,
    ...                "evaluation_loss": None, "seconds_left": 83.0})
    'training, step 12 of 40, 30 %, loss 3.250, 1 min 23 s left'
    """
    if not progress:
        return ""
    parts = [str(progress.get("phase", ""))]
    if progress.get("total_steps"):
        parts += [f"step {progress.get('step')} of {progress['total_steps']}", f"{progress.get('percent') or 0:.0f} %"]
    for name, label in (("loss", "loss"), ("evaluation_loss", "evaluation loss")):
        if progress.get(name) is not None:
            parts.append(f"{label} {progress[name]:.3f}")
    if progress.get("seconds_left"):
        minutes, seconds = divmod(round(progress["seconds_left"]), 60)
        parts.append(f"{f'{minutes} min ' if minutes else ''}{seconds} s left")
    return ", ".join(parts)


def status_record(view: View) -> Object:
    """Return what `status --json` prints; `exit_code` is null while the job goes on."""
    ended = outcome(view.snapshot.job, view.snapshot.pods)
    return {
        "job": view.name,
        "phase": pytorchjob.phase_of(view.snapshot.job),
        "exit_code": ended.exit_code if ended else None,
        "outcome": ended.sentence if ended else None,
        "pods": [
            {
                "name": pod.name,
                "rank": pod.rank,
                "phase": pod.phase,
                "reason": pod.reason or None,
                "restarts": pod.restarts,
                "exit_code": pod.exit_code,
                "node": pod.node or None,
            }
            for pod in view.pods
        ],
        "progress": view.progress,
        "explanations": explanations(view.snapshot),
    }


def status_line(view: View) -> str:
    """Return one line for a log: phase, pods by state, restarts, progress."""
    counts: dict[str, int] = {}
    for pod in view.pods:
        counts[_pod_text(pod)] = counts.get(_pod_text(pod), 0) + 1
    pods = ", ".join(f"{count} {text}" for text, count in counts.items()) or "no pods yet"
    restarts = sum(pod.restarts for pod in view.pods)
    parts = [
        pytorchjob.phase_of(view.snapshot.job),
        pods,
        f"{restarts} restart(s)" if restarts else "",
        progress_text(view.progress),
    ]
    return "; ".join(part for part in parts if part)


def _pod_text(pod: PodState) -> str:
    return f"{pod.phase} ({pod.reason})" if pod.reason and pod.phase != "Succeeded" else pod.phase


def screen(view: View) -> Group:
    """Return the status screen: pods in a table, then why the job does not go on, then the last events."""
    phase = pytorchjob.phase_of(view.snapshot.job)
    title = f"[bold]{escape(view.name)}[/]  {phase}  {escape(progress_text(view.progress))}"
    pods = Table(box=None, header_style="dim")
    for column in ("rank", "pod", "state", "restarts", "last exit", "node"):
        pods.add_column(column)
    for pod in view.pods:
        last_exit = "" if pod.exit_code is None else str(pod.exit_code)
        pods.add_row(str(pod.rank), pod.name, escape(_pod_text(pod)), str(pod.restarts), last_exit, pod.node)
    reasons = [f"[yellow]![/] {escape(sentence)}" for sentence in explanations(view.snapshot)]
    recent = view.snapshot.events[-NUM_EVENTS:]
    events = [f"[dim]{escape(event_text(event))}[/]" for event in recent]
    return Group(title, pods, *reasons, *events)


def event_text(event: Object) -> str:
    """Return an event on one line, with the time of day in UTC."""
    about = (event.get("involvedObject") or {}).get("name", "?")
    return f"{_time_of(event)[11:19]} {about}: {event.get('reason')}: {' '.join(str(event.get('message', '')).split())}"


class Lines:
    """Lines say what has changed, one each; they are for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()
        self._last = ""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, view: View) -> None:
        line = status_line(view)
        if line != self._last:
            self.say(line)
            self._last = line
        for sentence in explanations(view.snapshot):
            if sentence not in self._said:
                self._said.add(sentence)
                self.say(f"! {sentence}")

    def say(self, text: str) -> None:
        self._console.out(f"{time.strftime('%H:%M:%S')} {text}", highlight=False)


class Screen:
    """A screen is redrawn in place; it is for terminals."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: View) -> None:
        self._live.update(screen(view), refresh=True)

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)


Display = Lines | Screen


def pick_display(console: Console) -> Display:
    """Choose a screen on a terminal, lines elsewhere."""
    return Screen(console) if console.is_terminal else Lines(console)


def follow(
    cluster: Cluster,
    deployment: Deployment,
    display: Display,
    restart: Callable[[], None],
    *,
    start_seconds: float | None = None,
) -> Outcome:
    """Show the job until it has ended. A supervised job that fails retryably is started again, by `restart`.

    Raises:
        DeployError: there is no such job, it was deleted while we looked, or not all of its pods have started after
            `start_seconds` (None: wait for ever; a queue may be long).
    """
    start = Start(time.monotonic(), start_seconds)
    restarts_left = deployment.profile.restart.times if deployment.profile.restart.policy == "supervised" else 0
    progress, next_progress, seen = None, 0.0, False
    while True:
        snapshot = look(cluster, deployment)
        if snapshot.job is None:
            raise _no_job(deployment, seen=seen)
        seen = True
        if time.monotonic() >= next_progress:
            # Less often than the rest: it is a program started in the pod. The last answer stands in for one missed.
            progress = read_progress(cluster, deployment, [pod_state(pod) for pod in snapshot.pods]) or progress
            next_progress = time.monotonic() + PROGRESS_SECONDS
        display.show(View(deployment.profile.job, snapshot, progress))
        ended = outcome(snapshot.job, snapshot.pods)
        if ended is None:
            start.check(deployment, snapshot)
            time.sleep(POLL_SECONDS)
            continue
        if ended.exit_code < RETRYABLE_EXIT_CODE or restarts_left == 0:
            return ended
        restarts_left -= 1
        display.say(f"{ended.sentence}; starting it again, {restarts_left} more time(s) at most")
        # The job's own restarts are Never here: it is deleted and made anew, all ranks at once.
        restart()
        start = Start(time.monotonic(), start_seconds)


@dataclass
class Start:
    """This bounds how long all pods of a job may take to start; once they have, time no longer counts."""

    since: float
    limit_seconds: float | None

    def check(self, deployment: Deployment, snapshot: Snapshot) -> None:
        """Stop the clock when all pods have started.

        Raises:
            DeployError: the time is up; all that is known of the reason is in it.
        """
        if self.limit_seconds is None:
            return
        started = [pod for pod in snapshot.pods if pod_state(pod).phase in ("Running", "Succeeded", "Failed")]
        if len(started) >= deployment.profile.pods:
            self.limit_seconds = None
        elif time.monotonic() - self.since > self.limit_seconds:
            reasons = "; ".join(reason.rstrip(".") for reason in explanations(snapshot)) or "no reason is known"
            raise DeployError(
                f"{len(started)} of {deployment.profile.pods} pods of job {deployment.profile.job} have started "
                f"after {self.limit_seconds:.0f} s: {reasons}",
                f"The job is still there; end it with: {deployment.command_line('delete')}",
                exit_code=ExitCode.INCOMPLETE,
            )


def _no_job(deployment: Deployment, *, seen: bool) -> DeployError:
    name = deployment.profile.job
    if seen:
        return DeployError(
            f"job {name} was deleted", "What it had written is on its volume.", exit_code=ExitCode.MISSING
        )
    return DeployError(
        f"there is no job {name} in namespace {deployment.profile.namespace}",
        f"Start it: {deployment.command_line('apply')}",
        exit_code=ExitCode.MISSING,
    )
