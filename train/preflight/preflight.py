"""`python -m train RECIPE --preflight`: would this run work here? A table and an exit code, in under a minute.

Every rank checks its own machine; then, with more than one rank, all meet, exchange some data and compare their
clocks, and rank 0 prints what the ranks found. Nothing is trained, and the run folder is left as it was. The exit code
is the one the run itself would have ended with.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.libraries import quieten_libraries
from train.config.run_config import DistributedConfig, ResolvedConfig
from train.distributed.group import Ranks, join
from train.distributed.topology import Topology
from train.failure import ExitCode, RunError, describe_failure
from train.planning.measure import measure_link
from train.preflight.checks import AFTER_MEETING, CHECKS, Check, Facts, Warned

MEETING_SECONDS = 40
COLLECTIVE_SECONDS = 20
CLOCK_TOLERANCE_SECONDS = 5.0
COLUMNS = 120

Verdict = Literal["ok", "warning", "failed", "skipped"]
_SEVERITY: Sequence[Verdict] = ("skipped", "ok", "warning", "failed")
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@dataclass(frozen=True)
class Finding:
    """Holds what one check saw on one rank."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    exit_code: int = 0
    rank: int = 0
    seconds: float = 0.0


class PreflightError(RunError):
    """Says that the run would fail; the exit code is that of the first check that failed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        failed = [finding for finding in findings if finding.verdict == "failed"]
        first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(findings)} checks failed; the first is '{first.check}' on rank {first.rank}: "
            f"{first.detail}",
            first.remedy,
        )
        self.exit_code = ExitCode(first.exit_code)


def preflight(resolved: ResolvedConfig, topology: Topology) -> None:
    """Check this rank, then all ranks together, and print the table on rank 0.

    Raises:
        PreflightError: the run would fail here.
    """
    quieten_libraries(warnings=False)
    facts = Facts(resolved, topology)
    findings: list[Finding] = []
    for check in CHECKS:
        findings.append(examine_alone(check, facts, findings))
    if topology.world_size > 1:
        findings = examine_together(facts, findings)
    else:
        findings.append(examine_alone(AFTER_MEETING, facts, findings))
    if topology.is_main:
        print_findings(findings)
    if any(finding.verdict == "failed" for finding in findings):
        raise PreflightError(findings)


def examine_alone(check: Check, facts: Facts, earlier: Iterable[Finding]) -> Finding:
    """Make one check of this rank, unless one that it needs did not pass."""
    missing = [
        found.check for found in earlier if found.check in check.needs and found.verdict in ("failed", "skipped")
    ]
    if missing:
        return Finding(check.name, "skipped", f"needs {' and '.join(missing)}", rank=facts.topology.rank)
    return examine(check.name, lambda: check.function(facts), facts.topology.rank)


def examine(name: str, function: Callable[[], str | Warned], rank: int) -> Finding:
    """Make one check and time it; whatever it raises is a finding."""
    start = time.monotonic()
    try:
        saw = function()
    except Exception as error:
        record = describe_failure(error, name, rank)
        detail = getattr(error, "problem", record.message)
        return Finding(name, "failed", detail, record.remedy, record.exit_code, rank, time.monotonic() - start)
    seconds = time.monotonic() - start
    if isinstance(saw, Warned):
        return Finding(name, "warning", saw.detail, saw.remedy, rank=rank, seconds=seconds)
    return Finding(name, "ok", saw, rank=rank, seconds=seconds)


def examine_together(facts: Facts, findings: list[Finding]) -> list[Finding]:
    """Meet the other ranks; every rank returns the findings of all, the worst rank's for each check."""
    rank = facts.topology.rank
    ranks: list[Ranks] = []

    def meet() -> str:
        ranks.append(join(facts.topology, bounded(facts.config.distributed)))
        return f"all {facts.topology.world_size} ranks met"

    findings = [*findings, examine("peers", meet, rank)]
    if not ranks:
        return findings  # alone: every rank says what it saw itself
    together: list[tuple[str, Callable[[], str | Warned]]] = [
        ("same run", lambda: same_run(ranks[0], facts)),
        ("network", lambda: measure_link(facts.topology.world_size).description),
        ("clocks", lambda: compare_clocks(ranks[0])),
    ]
    findings.append(examine_alone(AFTER_MEETING, facts, findings))
    all_findings = gather(ranks[0], findings, "alone")
    for name, check in together:
        findings = [examine(name, check, rank)]
        all_findings += gather(ranks[0], findings, name)
    ranks[0].leave()
    return worst_of_each(all_findings)


def bounded(config: DistributedConfig) -> DistributedConfig:
    """Return settings under which the same ranks meet within the time a preflight has."""
    return config.model_copy(
        update={
            "rendezvous_timeout_seconds": min(config.rendezvous_timeout_seconds, MEETING_SECONDS),
            "collective_timeout_seconds": min(config.collective_timeout_seconds, COLLECTIVE_SECONDS),
        }
    )


def gather(ranks: Ranks, findings: Sequence[Finding], round_name: str) -> list[Finding]:
    """Return the findings of all ranks, on every rank."""
    assert ranks.store is not None
    mine = json.dumps([dataclasses.asdict(finding) for finding in findings])
    ranks.store.set(f"findings/{round_name}/{ranks.topology.rank}", mine)
    texts = (ranks.store.get(f"findings/{round_name}/{rank}") for rank in range(ranks.topology.world_size))
    return [Finding(**fields) for text in texts for fields in json.loads(text)]


def worst_of_each(findings: Sequence[Finding]) -> list[Finding]:
    """Return one finding per check, in order: the worst, of equals that of the lowest rank.

    >>> found = worst_of_each([Finding("data", "ok", "a"), Finding("data", "failed", "b", rank=1)])
    >>> [(finding.verdict, finding.rank) for finding in found]
    [('failed', 1)]
    """
    worst: dict[str, Finding] = {}
    for finding in findings:
        known = worst.setdefault(finding.check, finding)
        if _SEVERITY.index(finding.verdict) > _SEVERITY.index(known.verdict):
            worst[finding.check] = finding
    return list(worst.values())


def same_run(ranks: Ranks, facts: Facts) -> str:
    """Compare settings, data, model and packages between the ranks."""
    ranks.agree("run shape", facts.identity or facts.config.deciding_fields(), MEETING_SECONDS)
    return "settings, data, model and packages are the same" if facts.identity else "settings are the same"


def compare_clocks(ranks: Ranks) -> str | Warned:
    """Compare this rank's clock with rank 0's, asked through the store; half the round trip is the uncertainty."""
    store, rank = ranks.store, ranks.topology.rank
    assert store is not None
    if ranks.topology.is_main:
        for peer in range(1, ranks.topology.world_size):
            store.get(f"clock/{peer}/asked")
            store.set(f"clock/{peer}/told", str(time.time()))
        return f"within {CLOCK_TOLERANCE_SECONDS:.0f} s of each other"
    asked = time.time()
    store.set(f"clock/{rank}/asked", "")
    told = float(store.get(f"clock/{rank}/told"))
    answered = time.time()
    skew, uncertainty = (asked + answered) / 2 - told, (answered - asked) / 2
    detail = f"{skew:+.3f} s against rank 0 (+- {uncertainty:.3f} s)"
    if abs(skew) - uncertainty <= CLOCK_TOLERANCE_SECONDS:
        return detail
    return Warned(detail, "Let the nodes keep time (chrony): certificates, tokens and the order of logs depend on it.")


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the table of all checks, and how many ended how."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = COLUMNS  # logs are no terminal of 80 columns
    several = len({finding.rank for finding in findings}) > 1
    table = Table("check", "verdict", *(["rank"] if several else []), "what was seen", "seconds", title="preflight")
    for finding in findings:
        text = f"{finding.detail}. {finding.remedy}" if finding.remedy else finding.detail
        row = [finding.check, finding.verdict, *([str(finding.rank)] if several else []), escape(text)]
        table.add_row(*row, f"{finding.seconds:.1f}", style=_COLOURS[finding.verdict])
    console.print(table)
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _COLOURS}
    console.print(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
