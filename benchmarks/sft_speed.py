"""What one fine-tuning run costs, five ways, on the same rows in the same order.

    python -m benchmarks.sft_speed --json speed.json --plot docs/sft_speed.png
    python -m benchmarks.sft_speed --rows 256 --only stock_label_head,shared,shared_cached

Every variant is a process of its own. They take turns, one optimizer step each, and only the process whose turn it is
computes, so whatever else the machine does falls on all of them alike. A variant's time is the sum of its turns: the
trunk pass, every step, every evaluation; not the loading of the model, nor checkpoints. The model is SmolLM2-135M;
its last two layers and its head train. The losses are measured at the end, row by row, in the same way for all.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
REAL_SET = ROOT.parent / "shared" / "data" / "practical_skills_qa.parquet"
BAKED_IN_SET = ROOT / "data" / "qa_dataset.parquet"
MOST_SECONDS_A_TURN = 900
MIB = 2**20


@dataclass(frozen=True)
class Variant:
    """One way to do the run: TRL's own trainer (`stock`), or ours with these settings."""

    title: str
    stock: bool
    settings: tuple[str, ...]
    micro_batch: int | None
    """Rows per forward pass; None: the whole effective batch, as one tree."""


PLAIN = ("speed.prefix_sharing=off", "speed.activation_cache=off")
SEED = (*PLAIN, "adapt.head=tied", "optim.gradient_checkpointing=true")
SHARED = ("speed.prefix_sharing=on", "speed.activation_cache=off")
CACHED = ("speed.prefix_sharing=on", "speed.activation_cache=on")
VARIANTS = {
    "stock_seed": Variant("stock TRL: tied head, gradient checkpointing", True, SEED, 8),
    "stock_best": Variant("stock TRL: untied head, no checkpointing", True, PLAIN, 8),
    "stock_label_head": Variant("the same, head on label positions only", False, PLAIN, 8),
    "shared": Variant("prefix sharing", False, SHARED, None),
    "shared_cached": Variant("prefix sharing + activation cache", False, CACHED, None),
}
RATIOS = [
    ("shared_cached", "stock_seed"),
    ("shared_cached", "stock_best"),
    ("shared_cached", "stock_label_head"),
    ("shared", "stock_label_head"),
]


@dataclass(frozen=True)
class Task:
    """What every variant has to do."""

    num_rows: int
    num_epochs: int
    effective_batch: int
    precision: str
    device: str
    dataset: Path

    @property
    def num_validation_rows(self) -> int:
        return max(8, self.num_rows // 8)

    @property
    def num_steps(self) -> int:
        return self.num_epochs * -(-self.num_rows // self.effective_batch)

    def overrides(self, variant: Variant, folder: Path) -> list[str]:
        micro_batch = variant.micro_batch or self.effective_batch
        return [
            f"data.dataset={self.dataset}",
            f"data.max_train_rows={self.num_rows}",
            f"data.max_validation_rows={self.num_validation_rows}",
            f"optim.epochs={self.num_epochs}",
            f"optim.batch_size={micro_batch}",
            f"optim.accumulation_steps={self.effective_batch // micro_batch}",
            f"evaluation.batch_size={micro_batch}",
            f"model.precision={self.precision}",
            f"output.dir={folder}",
            *variant.settings,
        ]


@dataclass
class Result:
    """What one variant took. `turn_seconds`: its preparation, every step, and what comes after the last."""

    turn_seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    train_loss: float = 0.0
    eval_loss: float = 0.0
    peak_rss_bytes: int = 0
    report: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(self.turn_seconds)


# --- one variant, in its own process ---------------------------------------------------------------------------------


def work(name: str, task: Task, connection: Connection) -> None:
    """Do the run of one variant, a turn at a time; at the end send what came of it."""
    import torch
    import transformers

    from train.adapt import adapt, master_weights_in_fp32
    from train.config import resolve_config
    from train.distributed import Ranks, Topology
    from train.metrics import peak_memory_bytes
    from train.model import load_model, load_tokenizer, model_fingerprint
    from train.speed import choose_path
    from train.tokens import load_training_data

    transformers.utils.logging.set_verbosity_error()
    with TemporaryDirectory() as temporary:
        config = resolve_config("laptop", task.overrides(VARIANTS[name], Path(temporary)), {}).config
        tokenizer = load_tokenizer(config)
        data = load_training_data(config, tokenizer)
        transformers.set_seed(config.seed)
        model = load_model(config, tokenizer)
        adapt(model, config.adapt)
        master_weights_in_fp32(model)
        fingerprint = model_fingerprint(config)
        os.environ["CACHE_DIR"] = temporary  # nothing computed by an earlier run is found
        _end_turn(connection)
        path = choose_path(config, model, tokenizer, data, fingerprint, Ranks(Topology()))
        with path.training(model):
            trainer = _trainer(VARIANTS[name], config, model, tokenizer, data, path, connection)
            _end_turn(connection)
            trainer.train()
            _end_turn(connection)
            peak_bytes = torch.cuda.max_memory_allocated() if task.device == "cuda" else peak_memory_bytes()
        result = {
            "train_loss": statistics.mean(record["loss"] for record in trainer.state.log_history if "loss" in record),
            "eval_loss": _loss_row_by_row(model, data.validation.rows),
            "peak_rss_bytes": peak_bytes,
            "report": path.report,
        }
        connection.send(result)


def _end_turn(connection: Connection) -> None:
    """Hand the turn over, saying how much CPU time has been used so far, and wait for the next one."""
    connection.send(time.process_time())
    connection.recv()


def _trainer(
    variant: Variant, config: Any, model: Any, tokenizer: Any, data: Any, path: Any, connection: Connection
) -> Any:
    from transformers import TrainerCallback
    from transformers.trainer_utils import SaveStrategy

    from train.artifacts import RunFolder
    from train.sft import as_dataset, build_trainer, make_sft_config, sft_options

    class TurnByTurn(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _end_turn(connection)

    folder, num_rows = RunFolder(config.output.dir), len(data.train.rows)
    if variant.stock:
        options = sft_options(config, world_size=1, num_train_rows=num_rows, folder=folder)
        trainer = stock_trainer_class()(
            model=model,
            args=make_sft_config({**options, "eval_on_start": True}, config.trl),
            processing_class=tokenizer,
            callbacks=[TurnByTurn()],
            train_dataset=as_dataset(data.train),
            eval_dataset=as_dataset(data.validation),
        )
    else:
        trainer = build_trainer(
            config,
            model=model,
            tokenizer=tokenizer,
            train_rows=data.train,
            validation_rows=data.validation,
            folder=folder,
            world_size=1,
            collator=path.collator,
            callbacks=[TurnByTurn()],
        )
    trainer.args.save_strategy = SaveStrategy.NO
    return trainer


def stock_trainer_class() -> Any:
    """SFTTrainer as it is, but for the order of its rows, which must be the same for all variants."""
    from trl import SFTTrainer

    from train.batches import EpochBatches
    from train.sft import EpochLoader

    class StockTrainer(SFTTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            size = self.args.per_device_train_batch_size
            batches = EpochBatches(len(self.train_dataset), batch_size=size, num_ranks=1, rank=0, seed=self.args.seed)
            return EpochLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

    return StockTrainer


def _loss_row_by_row(model: Any, rows: Sequence[Any]) -> float:
    """Mean loss of the rows' label tokens in fp32, by the whole model and nothing but it."""
    import torch
    from torch.nn import functional

    model.float().eval()
    losses, num_labels = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.input_ids], device=model.device)
            labels = torch.tensor(row.labels[1:], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            losses += functional.cross_entropy(logits, labels, reduction="sum").item()
            num_labels += int((labels >= 0).sum())
    return losses / num_labels


# --- all of them, in turn --------------------------------------------------------------------------------------------


def measure(names: Sequence[str], task: Task, console: Console) -> dict[str, Result]:
    """Run the variants side by side, a turn each."""
    context, connections, cpu_seconds = get_context("spawn"), {}, {}
    results = {name: Result() for name in names}
    for name in names:  # one after the other, so that not all load at once
        connections[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, task, theirs), daemon=True).start()
        cpu_seconds[name] = _receive(connections[name], name)
    running = list(names)
    with console.status("loading") as status:
        while running:
            for name in list(running):
                result = results[name]
                status.update(f"turn {len(result.turn_seconds) + 1} of {task.num_steps + 2}: {VARIANTS[name].title}")
                begin = time.perf_counter()
                connections[name].send("go")
                message = _receive(connections[name], name)
                if isinstance(message, dict):
                    vars(result).update(message)
                    running.remove(name)
                    continue
                result.turn_seconds.append(time.perf_counter() - begin)
                result.cpu_seconds += message - cpu_seconds[name]
                cpu_seconds[name] = message
    return results


def _receive(connection: Connection, name: str) -> Any:
    if not connection.poll(MOST_SECONDS_A_TURN):
        sys.exit(f"error: {name} took more than {MOST_SECONDS_A_TURN} s for one turn")
    try:
        return connection.recv()
    except EOFError:
        sys.exit(f"error: the process of {name} died; its message stands above")


def ratios(results: dict[str, Result], num_epochs: int) -> dict[str, dict[str, float]]:
    """How many times faster: over the whole run, and the smallest and largest over its epochs of steps.

    >>> slow, fast = Result(turn_seconds=[2, 4, 8, 2]), Result(turn_seconds=[2, 1, 4, 1])
    >>> ratios({"stock_label_head": slow, "shared": fast}, num_epochs=2)
    {'shared_over_stock_label_head': {'whole_run': 2.0, 'smallest_epoch': 2.0, 'largest_epoch': 4.0}}
    """
    found = {}
    for fast, slow in RATIOS:
        if fast in results and slow in results:
            epochs = [
                sum(one) / sum(other)
                for one, other in zip(
                    *(_epochs(results[name].turn_seconds[1:-1], num_epochs) for name in (slow, fast)), strict=True
                )
            ]
            whole = results[slow].seconds / results[fast].seconds
            found[f"{fast}_over_{slow}"] = {
                "whole_run": round(whole, 2),
                "smallest_epoch": round(min(epochs), 2),
                "largest_epoch": round(max(epochs), 2),
            }
    return found


def _epochs(step_seconds: Sequence[float], num_epochs: int) -> list[Sequence[float]]:
    size = len(step_seconds) // num_epochs
    return [step_seconds[start : start + size] for start in range(0, len(step_seconds), size)]


# --- what is said ----------------------------------------------------------------------------------------------------


def as_json(results: dict[str, Result], task: Task) -> dict[str, Any]:
    num_rows = task.num_rows * task.num_epochs
    return {
        "task": {
            **vars(task),
            "dataset": task.dataset.name,
            "date": date.today().isoformat(),
            "machine": machine(task),
        },
        "variants": {
            name: {
                "rows_per_second": num_rows / result.seconds,
                "seconds": result.seconds,
                "cpu_seconds": result.cpu_seconds,
                "preparation_seconds": result.turn_seconds[0],
                "train_loss": result.train_loss,
                "eval_loss": result.eval_loss,
                "peak_rss_bytes": result.peak_rss_bytes,
                "report": result.report,
            }
            for name, result in results.items()
        },
        "ratios": ratios(results, task.num_epochs),
    }


def machine(task: Task) -> str:
    if task.device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{len(os.sched_getaffinity(0))} cores, {model}"


def print_result(found: dict[str, Any], console: Console) -> None:
    task = found["task"]
    table = Table(
        *("", "rows/s", "seconds", "CPU-s", "peak MiB", "training loss", "evaluation loss"),
        title=f"{task['num_rows']} rows x {task['num_epochs']} epochs, {task['precision']}, {task['machine']}, "
        f"{task['date']}",
    )
    for name, row in found["variants"].items():
        table.add_row(
            VARIANTS[name].title,
            f"{row['rows_per_second']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['peak_rss_bytes'] / MIB:,.0f}",
            f"{row['train_loss']:.6f}",
            f"{row['eval_loss']:.6f}",
        )
    console.print(table)
    for name, ratio in found["ratios"].items():
        fast, _, slow = name.partition("_over_")
        console.print(
            f"{VARIANTS[fast].title}: {ratio['whole_run']:.1f} x faster than {VARIANTS[slow].title} "
            f"({ratio['smallest_epoch']:.1f} to {ratio['largest_epoch']:.1f} over the epochs' steps)"
        )


def plot(found: dict[str, Any], file: Path) -> None:
    """Rows per second of every variant, as bars with their numbers."""
    from matplotlib import pyplot

    names = list(found["variants"])
    speeds = [found["variants"][name]["rows_per_second"] for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 2.6), layout="constrained")
    bars = axes.barh([VARIANTS[name].title for name in names], speeds, color=["#9aa5b1"] * 3 + ["#2f855a"] * 2)
    axes.bar_label(bars, [f"{speed:.1f}" for speed in speeds], padding=4)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("training rows per second, whole run")
    task = found["task"]
    axes.set_title(
        f"SmolLM2-135M, {task['num_rows']} rows x {task['num_epochs']} epochs, {task['precision']}, {task['machine']}",
        fontsize=9,
    )
    figure.savefig(file, dpi=150)


def main(
    rows: Annotated[int, typer.Option(help="Training rows.")] = 64,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 4,
    effective_batch: Annotated[int, typer.Option(help="Rows per optimizer step.")] = 32,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, for all variants.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="Variants, separated by commas.")] = ",".join(VARIANTS),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw rows per second here.")] = None,
) -> None:
    """Time one fine-tuning run, five ways."""
    names = only.split(",")
    if unknown := set(names) - VARIANTS.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(VARIANTS)}", param_hint="--only")
    dataset = REAL_SET if REAL_SET.is_file() else BAKED_IN_SET
    task = Task(rows, epochs, effective_batch, precision, device, dataset)
    console = Console(width=150)
    found = as_json(measure(names, task, console), task)
    print_result(found, console)
    if json_file:
        json_file.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    if plot_file:
        plot(found, plot_file)


if __name__ == "__main__":
    typer.run(main)
