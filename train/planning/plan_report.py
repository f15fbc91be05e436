"""`python -m train plan`: the work, memory and time of a run on several numbers of devices, predicted and explained.

    python -m train plan smollm3-l40s-x4 --gpus 1,4 --device l40s --bandwidth 25

Tokens are counted on the real data, sizes come from the architecture without weights, the rest is arithmetic
(`train.planning.cost`, `train.planning.predict`). What had to be assumed is printed below the tables.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel

from train.batching.tokenise import TrainingData, load_training_data
from train.config.run_config import ResolvedConfig, RunConfig
from train.distributed.group import join
from train.distributed.topology import read_topology
from train.failure import ConfigError, ModelError
from train.fast.choose import refusals
from train.fast.when_exact import PathName
from train.model.adapt import ParameterCount
from train.model.base import architecture_without_weights, load_tokenizer, pick_attention
from train.planning.cost import FP32_BYTES, ModelShape, memory_bytes
from train.planning.count_work import DataWork, data_work, job_of
from train.planning.dry_run import assumed_world_size
from train.planning.measure import measure_link, measure_link_here, this_cpu, this_device
from train.planning.predict import (
    BF16_BYTES,
    DEVICES,
    GIGA,
    Device,
    Fit,
    Job,
    Link,
    Prediction,
    fit_of,
    predict,
    seconds,
    verdict,
    with_overrides,
)
from train.planning.sizes import GIB, model_shape, model_without_weights
from train.units import human_seconds

ASSUMED_GBIT_PER_SECOND = 10.0
PATHS: tuple[PathName, ...] = ("plain", "prefix sharing", "sharing + cache")


@dataclass(frozen=True)
class PlanRequest:
    """Holds what the command line asks for; None is for what this machine or an assumption answers."""

    device_counts: tuple[int, ...]
    device: str | None
    gbit_per_second: float | None
    measure: bool
    tflops: float | None
    memory_bytes: float | None

    @classmethod
    def read(
        cls, gpus: str, device: str | None, bandwidth: str | None, tflops: float | None, memory_gib: float | None
    ) -> "PlanRequest":
        """Read the options as typed (ConfigError where one is not a number or not a known name).

        >>> PlanRequest.read("4,1", None, "25", None, None).device_counts
        (1, 4)
        """
        counts = [part.strip() for part in gpus.split(",")]
        if not all(part.isdigit() and int(part) > 0 for part in counts):
            raise ConfigError(f"--gpus must be positive numbers with commas between, not '{gpus}'", "For example: 1,4.")
        if device is not None and device.lower() not in (*DEVICES, "cpu"):
            raise ConfigError(
                f"unknown device '{device}'",
                f"Known: {', '.join(DEVICES)}, cpu; another is one of them with --device-tflops and --device-memory.",
            )
        return cls(
            device_counts=tuple(sorted(set(map(int, counts)))),
            device=device and device.lower(),
            gbit_per_second=None if bandwidth in (None, "measured") else _positive(bandwidth),
            measure=bandwidth == "measured",
            tflops=tflops,
            memory_bytes=None if memory_gib is None else memory_gib * GIB,
        )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--bandwidth must be `measured` or Gbit/s above 0, not '{text}'", "For example: 25.")
    return value


@dataclass(frozen=True)
class Row:
    """Is one line of the plan: a path on a number of devices."""

    job: Job
    prediction: Prediction
    memory_bytes: float
    fit: Fit
    speed_up: float
    """Over the smallest number of devices in the plan, on the same path."""


@dataclass(frozen=True)
class Plan:
    recipe: str
    rows: list[Row]
    refused: Mapping[PathName, str]
    """Paths this run cannot take, and why not."""
    taken: PathName
    device: Device
    sentences: list[str]
    assumptions: list[str]


def print_plan(resolved: ResolvedConfig, request: PlanRequest, *, as_json: bool) -> None:
    """Print the plan; raises what the run itself would raise about configuration, data and architecture."""
    topology = read_topology(os.environ)
    link = _link(resolved.config, request)
    if not topology.is_main:
        return
    plan = make_plan(resolved, request, link)
    if as_json:
        print(json.dumps(_as_json(plan), indent=1))
        return
    console = Console(highlight=False)
    console.print(_work_table(plan))
    console.print(_time_table(plan))
    for text in plan.sentences:
        console.print(escape(text), style="bold")
    console.print("\nPredicted, not measured. Assumed:")
    for text in plan.assumptions:
        console.print(f"- {escape(text)}")


def _link(config: RunConfig, request: PlanRequest) -> Link:
    """Measured between the ranks that run this very command, or two processes here; or nominal."""
    if not request.measure:
        return Link.nominal(request.gbit_per_second or ASSUMED_GBIT_PER_SECOND)
    topology = read_topology(os.environ)
    if topology.world_size == 1:
        return measure_link_here()
    ranks = join(topology, config.distributed)
    link = measure_link(topology.world_size)
    ranks.leave()
    return link


def make_plan(resolved: ResolvedConfig, request: PlanRequest, link: Link) -> Plan:
    """Count, predict, compare. A step has the same rows on any number of devices, so the results could be compared."""
    world_size = assumed_world_size(resolved)
    config = resolved.config.settled(world_size)
    device = with_overrides(_device(request), request.tflops, request.memory_bytes)
    in_bf16 = config.model.precision == "bf16" or (config.model.precision == "auto" and _has_bf16(device))
    model, parameters = model_without_weights(config, architecture_without_weights(config))
    shape = model_shape(model, recomputes=config.optim.gradient_checkpointing)
    data, counted_by = _training_data(config)
    refused = refused_paths(config, model, data)
    subject = _Subject(config, shape, parameters, device, link, in_bf16)
    rows: list[Row] = []
    for num_ranks in request.device_counts:
        work = data_work(config, data, num_ranks, config.effective_batch_size(world_size))
        rows += [subject.row(path, work, num_ranks, rows) for path in PATHS if path not in refused]
    taken = [path for path in PATHS if path not in refused][-1]
    tokens = f"{_tokens(work)}, counted on the data set by {counted_by}"
    assumptions = _assumptions(resolved.config, config, request, device, link, tokens, world_size)
    return Plan(resolved.recipe, rows, refused, taken, device, _sentences(rows, taken, device), assumptions)


@dataclass(frozen=True)
class _Subject:
    """What is the same in every line of a plan."""

    config: RunConfig
    shape: ModelShape
    parameters: ParameterCount
    device: Device
    link: Link
    in_bf16: bool

    def row(self, path: PathName, work: DataWork, num_ranks: int, earlier: Sequence[Row]) -> Row:
        """One line; its speed-up is over the first of the earlier ones on the same path."""
        job = job_of(self.config, self.shape, work, path, self.parameters.num_trainable, in_bf16=self.in_bf16)
        prediction = predict(job, self.device, self.link, num_ranks)
        needed_bytes = memory_bytes(
            self.shape,
            work.largest_batch(path),
            num_parameters=self.parameters.num_total,
            num_trainable=self.parameters.num_trainable,
            element_bytes=BF16_BYTES if self.in_bf16 else FP32_BYTES,
            num_ranks=num_ranks,
            cached=path == "sharing + cache",
        )
        first = next((row.prediction for row in earlier if row.job.path == path), prediction)
        fit = fit_of(needed_bytes, self.device.memory_bytes_per_rank(num_ranks))
        return Row(job, prediction, needed_bytes, fit, first.total_seconds / prediction.total_seconds)


def _device(request: PlanRequest) -> Device:
    if request.device is None:
        return this_device()
    return this_cpu() if request.device == "cpu" else DEVICES[request.device]


def _has_bf16(device: Device) -> bool:
    return device.bf16_tflops > device.fp32_tflops


def _training_data(config: RunConfig) -> tuple[TrainingData, str]:
    """The tokenised data, and whose tokenizer counted it: the embedded model's where the recipe's is not here."""
    try:
        return load_training_data(config, load_tokenizer(config)), f"the tokenizer of {config.model.name}"
    except ModelError as error:
        embedded = config.model.model_copy(update={"name": "embedded", "revision": None})
        stand_in = config.model_copy(update={"model": embedded})
        reason = f"the embedded model's tokenizer, as a stand-in ({error.problem})"
        return load_training_data(stand_in, load_tokenizer(stand_in)), reason


def refused_paths(config: RunConfig, model: PreTrainedModel, data: TrainingData) -> dict[PathName, str]:
    """Return the faster paths this run would not take, and why."""
    found = refusals(config, model, pick_attention(config), [*data.train.rows, *data.validation.rows])
    reasons = {"prefix sharing": found["prefix_sharing"], "sharing + cache": found["activation_cache"]}
    return {path: reason for path in PATHS if (reason := reasons.get(path))}


def _tokens(work: DataWork) -> str:
    row = work.plain_row
    return (
        f"{row.tokens:.0f} a row in the mean, {work.prefix_tokens} of them shared by all rows, {row.labels:.0f} labels"
    )


def _sentences(rows: list[Row], taken: PathName, device: Device) -> list[str]:
    of_path = [row for row in rows if row.job.path == taken]
    sentences = [verdict(row.job, device, of_path[0].prediction, row.prediction) for row in of_path[1:]]
    for row in of_path:
        if row.fit != "fits":
            limit = device.memory_bytes_per_rank(row.prediction.num_ranks) / GIB
            sentences.append(
                f"On {row.prediction.num_ranks} device(s) the run {row.fit.replace('tight', 'is tight')}: about "
                f"{row.memory_bytes / GIB:.1f} of {limit:.1f} GiB. Lower optim.batch_size or data.max_length_tokens."
            )
    return sentences


def _assumptions(
    asked: RunConfig, config: RunConfig, request: PlanRequest, device: Device, link: Link, tokens: str, world: int
) -> list[str]:
    source = "given" if request.gbit_per_second else "measured" if request.measure else "assumed, as none was given"
    rows = config.effective_batch_size(world)
    batch = f"{rows} rows a step on any number of devices, {config.micro_batch_rows} at a time"
    return [
        f"{device.name}: {device.bf16_tflops:.3g} TFLOPS in bf16, {device.fp32_tflops:.3g} in fp32, of which training "
        f"reaches {device.utilisation:.0%}; memory {device.memory_bytes / GIB:.1f} GiB, at "
        f"{device.memory_bytes_per_second / GIGA:,.0f} GB/s",
        f"between devices: {link.description} ({source}), not overlapped with computing",
        f"tokens: {tokens}",
        batch + (" until batch_size=auto is measured" if asked.optim.batch_size == "auto" else ""),
        "attention counted only where a token may look; memory by a rule of thumb for activations",
        "not counted: loading, validation, checkpoints, publication, demo",
    ]


def _work_table(plan: Plan) -> Table:
    table = Table("path", "GFLOP / row / epoch", "once / row", "total PFLOP", "", title=f"work, recipe {plan.recipe}")
    seen: set[PathName] = set()
    for job in (row.job for row in plan.rows):
        if job.path in seen:
            continue
        seen.add(job.path)
        once = f"{job.once_flops / job.num_rows / GIGA:,.3g}" if job.once_flops else "-"
        note = "this run" if job.path == plan.taken else ""
        table.add_row(job.path, f"{job.flops_per_row / GIGA:,.4g}", once, f"{job.total_flops / 1e15:.3g}", note)
    for path, reason in plan.refused.items():
        table.add_row(path, "-", "-", "-", f"no: {escape(reason)}")
    return table


def _time_table(plan: Plan) -> Table:
    columns = ("devices", "path", "caching", "step computes", "+ exchanges", "total", "speed-up", "memory", "")
    table = Table(*columns, title=f"predicted, {plan.device.name}")
    for row in plan.rows:
        prediction = row.prediction
        table.add_row(
            str(prediction.num_ranks),
            row.job.path,
            human_seconds(prediction.caching_seconds) if row.job.once_flops else "-",
            seconds(prediction.compute_seconds),
            seconds(prediction.exchange_seconds),
            human_seconds(prediction.total_seconds),
            f"{row.speed_up:.2f} x",
            f"{row.memory_bytes / GIB:.1f} GiB",
            row.fit,
            style=None if row.job.path == plan.taken else "dim",
        )
    return table


def _as_json(plan: Plan) -> dict[str, object]:
    return {
        "recipe": plan.recipe,
        "path": plan.taken,
        "refused": dict(plan.refused),
        "device": asdict(plan.device),
        "predicted": [
            {
                "devices": row.prediction.num_ranks,
                **asdict(row.job),
                "total_flops": row.job.total_flops,
                **{name: value for name, value in asdict(row.prediction).items() if name != "num_ranks"},
                "total_seconds": row.prediction.total_seconds,
                "speed_up": row.speed_up,
                "memory_bytes": row.memory_bytes,
                "fit": row.fit,
            }
            for row in plan.rows
        ],
        "sentences": plan.sentences,
        "assumptions": plan.assumptions,
    }
