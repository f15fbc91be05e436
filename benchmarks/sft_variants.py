"""The five ways `benchmarks.sft_speed` does one fine-tuning run, and the process that does it in one of them."""

import os
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

MICRO_BATCH = 8  # rows per forward pass of the plain variants
Precision = Literal["fp32", "bf16"]


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
    "stock_seed": Variant("stock TRL: tied head, gradient checkpointing", True, SEED, MICRO_BATCH),
    "stock_best": Variant("stock TRL: untied head, no checkpointing", True, PLAIN, MICRO_BATCH),
    "stock_label_head": Variant("the same, head on label positions only", False, PLAIN, MICRO_BATCH),
    "shared": Variant("prefix sharing", False, SHARED, None),
    "shared_cached": Variant("prefix sharing + activation cache", False, CACHED, None),
}


@dataclass(frozen=True)
class Task:
    """What every variant has to do."""

    num_rows: int
    num_epochs: int
    effective_batch: int
    precision: Precision
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


def work(name: str, task: Task, connection: Connection) -> None:
    """Do the run of one variant, a turn at a time; at the end send what came of it."""
    import torch
    import transformers

    from data.libraries import quieten_libraries
    from train.batching.tokenise import load_training_data
    from train.config.run_config import resolve_config
    from train.distributed.group import Ranks
    from train.distributed.machine import keep_freed_memory
    from train.distributed.topology import Topology
    from train.failure import Phases
    from train.fast.choose import choose_path
    from train.model.adapt import adapt, master_weights_in_fp32
    from train.model.base import load_model, load_tokenizer, model_fingerprint
    from train.monitoring.recorder import peak_memory_bytes
    from train.run_context import Run
    from train.run_folder.run_folder import RunFolder

    quieten_libraries(warnings=False)
    keep_freed_memory()  # as a run does; the stock variants gain by it too
    warnings.filterwarnings("ignore", category=FutureWarning)
    with TemporaryDirectory() as temporary:
        resolved = resolve_config("laptop", task.overrides(VARIANTS[name], Path(temporary)), {})
        config = resolved.config
        tokenizer = load_tokenizer(config)
        data = load_training_data(config, tokenizer)
        transformers.set_seed(config.seed)
        model = load_model(config, tokenizer)
        adapt(model, config.adapt)
        master_weights_in_fp32(model)
        fingerprint = model_fingerprint(config)
        os.environ["CACHE_DIR"] = temporary  # nothing computed by an earlier run is found
        _end_turn(connection)
        identity, folder = {"model": fingerprint}, RunFolder(config.output.dir)
        run = Run(resolved, folder, Ranks(Topology()), tokenizer, data, identity, Phases())
        path = choose_path(run, model)
        with path.training(model):
            trainer = _trainer(VARIANTS[name], run, model, path, connection)
            _end_turn(connection)
            trainer.train()
            _end_turn(connection)
            peak_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory_bytes()
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


def _trainer(variant: Variant, run: Any, model: Any, path: Any, connection: Connection) -> Any:
    from transformers import PrinterCallback, TrainerCallback
    from transformers.trainer_utils import SaveStrategy

    from train.methods.sft import as_dataset, build_trainer
    from train.methods.trl_options import make_sft_config, sft_options

    class TurnByTurn(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _end_turn(connection)

    if variant.stock:
        num_rows = len(run.data.train.rows)
        options = sft_options(run.config, world_size=1, num_train_rows=num_rows, folder=run.folder)
        trainer = stock_trainer_class()(
            model=model,
            args=make_sft_config({**options, "eval_on_start": True}, run.config.trl),
            processing_class=run.tokenizer,
            callbacks=[TurnByTurn()],
            train_dataset=as_dataset(run.data.train),
            eval_dataset=as_dataset(run.data.validation),
        )
        trainer.remove_callback(PrinterCallback)
    else:
        trainer = build_trainer(run, model, path, callbacks=[TurnByTurn()])
    trainer.args.save_strategy = SaveStrategy.NO
    return trainer


def stock_trainer_class() -> Any:
    """SFTTrainer as it is, but for the order of its rows, which must be the same for all variants."""
    from trl import SFTTrainer

    from train.batching.batches import EpochBatches
    from train.methods.exact_loop import EpochLoader

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
