"""TRL's SFTTrainer, with three things made exact.

- Training rows are dealt by `EpochBatches`: the same rows in every step for any world size, none dropped or repeated.
- The evaluation loss is the mean over label tokens of the whole validation set, not a mean of batch means.
- A checkpoint holds what trains, and counts once it is committed.
"""

import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from train.batching.batches import EpochBatches
from train.batching.row_dataset import Batch, Collator, RowDataset
from train.batching.tokenise import TokenisedRows
from train.batching.topics import topic_groups
from train.config.run_config import RunConfig
from train.distributed.exchange import broadcast_only_what_trains, gathered_bytes, round_gradients_to_bf16
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.failure import FREE_SPACE, ExitCode, StorageError
from train.fast.label_loss import add_label_scores, num_labels
from train.fault_tolerance import checkpoints as resume
from train.fault_tolerance.stopping import GO_ON, StoppedError, StopRequest, grace_warning
from train.methods.trl_options import make_sft_config, sft_options
from train.model.adapt import load_trainable, trainable_parameters
from train.run_folder.retries import RETRY_SECONDS, pauses
from train.run_folder.run_folder import COMMITTED, RunFolder
from train.run_folder.saved_weights import BestWeights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_CODES = (ExitCode.STOPPED, ExitCode.INTERRUPTED)


def as_dataset(rows: TokenisedRows) -> Dataset:
    """The rows as TRL wants to be handed them; batches are then made from `RowDataset`, not from this."""
    return Dataset.from_list([dataclasses.asdict(row) for row in rows.rows])


class EpochLoader(DataLoader[dict[str, torch.Tensor]]):
    """A DataLoader that tells its batch sampler which epoch begins."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def agreed_stop(votes: Sequence[float]) -> ExitCode | None:
    """The exit code all ranks leave with, from the numbers of votes for each of `STOP_CODES`.

    >>> agreed_stop([0, 1])
    <ExitCode.INTERRUPTED: 130>
    """
    return next((code for code, number in zip(STOP_CODES, votes, strict=True) if number), None)


class ChatTrainer(SFTTrainer):
    """SFTTrainer with exact batches, exact evaluation and committed checkpoints of the trainable part."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        train_rows: TokenisedRows,
        validation_rows: TokenisedRows,
        stop: StopRequest,
        ranks: Ranks,
        write_history: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        self.config, self.folder, self.stop, self.ranks = config, folder, stop, ranks
        self.write_history = write_history
        self._agreed_stop: ExitCode | None = None
        self._saved_at = self._step_began = time.monotonic()
        self._step_seconds, self._grace_was_judged = 0.0, False
        self.best = BestWeights(folder.checkpoints / resume.BEST_WEIGHTS)
        self._label_counts: torch.Tensor | None = None  # [predicted right, all] since the last log
        self.train_rows = RowDataset(train_rows.rows)
        self.validation_rows = RowDataset(validation_rows.rows, first_number=len(train_rows.rows))
        self.validation_topics = topic_groups(validation_rows.topics or [None] * len(validation_rows.rows))
        super().__init__(train_dataset=as_dataset(train_rows), eval_dataset=as_dataset(validation_rows), **kwargs)
        self.remove_callback(PrinterCallback)
        add_label_scores(self.model)
        if self.args.world_size > 1:
            broadcast_only_what_trains(self.model)
            if config.distributed.gradient_compression == "bf16":
                round_gradients_to_bf16(self.accelerator)

    def get_train_dataloader(self) -> EpochLoader:
        batches = EpochBatches(
            len(self.train_rows),
            batch_size=self.args.per_device_train_batch_size,
            num_ranks=self.args.world_size,
            rank=self.args.process_index,
            seed=self.args.seed,
        )
        return EpochLoader(self.train_rows, batch_sampler=batches, collate_fn=self.data_collator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step, and the labels of all ranks in it, which the loss is divided by."""
        self._step_began = time.monotonic()
        batches = list(itertools.islice(epoch_iterator, num_batches))
        count = torch.tensor(sum(map(num_labels, batches)), device=device)
        if self.args.world_size > 1:
            dist.all_reduce(count)
        return batches, count

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean loss over the label tokens of the whole step: of every rank and every micro-batch."""
        scores = model(**inputs, score_labels=True)
        self.ranks.mark()
        counts = torch.stack([scores.num_correct, scores.num_labels])
        self._label_counts = counts if self._label_counts is None else self._label_counts + counts
        # Each rank's gradient is averaged over the ranks by DDP; the divisor counts the labels of all of them.
        return scores.summed_loss / num_items_in_batch.clamp(min=1) * self.args.world_size

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with requests to stop left to the end of a step."""
        with self.stop.left_to_trainer():
            return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of label tokens predicted right since the last log, over all ranks.

        The same exchange tells every rank whether any of them was asked to stop, and whether a checkpoint is due.
        """
        due = 0
        if "loss" in logs and self._label_counts is not None:
            told = torch.tensor([*self._stop_votes(), self._checkpoint_is_due()], device=self._label_counts.device)
            summed = self.accelerator.reduce(torch.cat([self._label_counts, told])).tolist()
            num_correct, num_labels, *votes, due = summed
            logs["token_accuracy"] = num_correct / max(1, num_labels)
            self._label_counts = None
            self._agreed_stop = agreed_stop(votes)
        super().log(logs, start_time)
        if due or self._agreed_stop:
            self.control.should_save = True
        if self._agreed_stop:  # saving comes first: the resumed run makes up for the evaluation
            self.control.should_evaluate = False

    def _stop_votes(self) -> list[int]:
        """[stopped, interrupted]: what this rank was asked."""
        return [self.stop.code == code for code in STOP_CODES]

    def _checkpoint_is_due(self) -> bool:
        minutes = self.config.output.checkpoint_every_minutes
        is_late = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return is_late and bool(self.args.should_save)  # rank 0's clock counts

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._step_seconds = time.monotonic() - self._step_began
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._agreed_stop:
            self._stop_here()

    def _stop_here(self) -> None:
        """Leave training for good, every rank in the same step; all of it is saved (raises StoppedError)."""
        step, code = self.state.global_step, self._agreed_stop
        assert code is not None
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.args.should_save:
            self.stop.fulfilled()
        if self.args.world_size > 1:
            dist.barrier()  # rank 0 has committed
        saved = f"at step {step}, saved" if step else "before step 1, nothing to save"
        raise StoppedError(f"stopped {saved}", GO_ON, code)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Also asked before the first step: the original model is measured then, or what a stop had put off."""
        resumed = skip_scheduler and self.state.global_step > 0
        if resumed and not self._evaluation_was_put_off():
            return {}
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if resumed:
            self._determine_best_metric(metrics, trial)
        return metrics

    def _evaluation_was_put_off(self) -> bool:
        """Whether the checkpoint we go on from was written before the evaluation of its step."""
        step, last = self.state.global_step, self.state.max_steps
        every_steps = self.config.evaluation.every_steps
        is_due = step % (every_steps or last // self.config.optim.epochs) == 0 or step == last
        return is_due and not any("eval_loss" in log and log["step"] == step for log in self.state.log_history)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Mean negative log-likelihood of the validation set's label tokens, in nats per token; every rank gets it.

        Beside the mean over all rows (`eval_loss`) there is one for each topic (`eval_topic_loss/TOPIC`). A request to
        stop ends it early: the step is saved, and the resumed run begins with this evaluation.
        """
        self.model.eval()
        topics = sorted(set(self.validation_topics))
        sums = torch.zeros(len(topics), 2, dtype=torch.float64)  # of each topic: [summed loss, number of label tokens]
        for topic, batch in self._validation_batches():
            if self.stop.code:
                break
            sums[topics.index(topic)] += self._summed_loss(batch)
            self.ranks.mark()
        votes = torch.tensor(self._stop_votes(), dtype=torch.float64)
        if self.args.world_size > 1:
            dist.all_reduce(told := torch.cat([sums.flatten(), votes]))
            sums, votes = told[: sums.numel()].view_as(sums), told[sums.numel() :]
        self._agreed_stop = agreed_stop(votes.tolist())
        if self._agreed_stop:
            if self.state.global_step:
                self._save_checkpoint(self.model, None)
            self._stop_here()
        summed_loss, num_labels = sums.sum(0)
        metrics = {f"{metric_key_prefix}_loss": (summed_loss / num_labels).item()}
        for topic, (topic_loss, topic_labels) in zip(topics, sums.tolist(), strict=True):
            metrics[f"{metric_key_prefix}_topic_loss/{topic}"] = topic_loss / topic_labels
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_batches(self) -> Iterator[tuple[str, list[int]]]:
        """This rank's share of the validation rows in batches of one topic, the longest rows of it first."""
        lengths = [len(row.input_ids) for row in self.validation_rows.rows]
        topics, size = self.validation_topics, self.args.per_device_eval_batch_size
        in_order = sorted(range(len(lengths)), key=lambda row: (topics[row], -lengths[row]))
        mine = in_order[self.args.process_index :: self.args.world_size]
        for topic, group in itertools.groupby(mine, key=lambda row: topics[row]):
            rows = list(group)
            yield from ((topic, rows[start : start + size]) for start in range(0, len(rows), size))

    @torch.no_grad()
    def _summed_loss(self, rows: Sequence[int]) -> torch.Tensor:
        """[sum of losses, number of label tokens] of some validation rows, on the CPU in float64."""
        batch = self._prepare_inputs(self.data_collator([self.validation_rows[row] for row in rows]))
        with self.accelerator.autocast():
            scores = self.model(**batch, score_labels=True)
        return torch.stack([scores.summed_loss.double(), scores.num_labels.double()]).cpu()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.should_save:
            self.best.keep(self.state.global_step, trainable_parameters(self.model), self._retry_pauses())
        return is_best

    def _retry_pauses(self) -> list[float]:
        """Between attempts to write; the other ranks wait meanwhile, so all is over well before they give up."""
        return pauses(min(RETRY_SECONDS, self.config.distributed.collective_timeout_seconds / 4))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """1. rank 0 gets every rank's RNG state, 2. it writes all, the marker last, 3. all learn whether it could."""
        start = time.monotonic()
        checkpoint = self.folder.checkpoints / f"checkpoint-{self.state.global_step}"
        if self._is_true_on_rank_0((checkpoint / COMMITTED).is_file()):
            return
        rng_states = self._rng_states_of_all_ranks()
        written = self.args.should_save and resume.write_checkpoint(
            self.folder,
            checkpoint,
            lambda aside: self._fill_checkpoint(aside, rng_states),
            keep=self.config.output.keep_checkpoints,
            retry_seconds=sum(self._retry_pauses()),
        )
        self.ranks.mark()
        self._saved_at = time.monotonic()
        if self._is_true_on_rank_0(written):
            self._warn_of_short_grace(self._saved_at - start)
        elif self._agreed_stop:
            raise StorageError(
                f"asked to stop at step {self.state.global_step}, but the checkpoint could not be written", FREE_SPACE
            )

    def _fill_checkpoint(self, checkpoint: Path, rng_states: dict[str, bytes]) -> None:
        """All of a checkpoint but its marker. What it counts on besides, best weights and history, goes first."""
        self.best.save()
        self.write_history()
        tensors = {name: p.detach().contiguous() for name, p in trainable_parameters(self.model).items()}
        save_file(tensors, checkpoint / resume.TRAINABLE_WEIGHTS)
        self._save_optimizer_and_scheduler(str(checkpoint))
        self.state.save_to_json(str(checkpoint / "trainer_state.json"))
        for name, content in rng_states.items():
            (checkpoint / name).write_bytes(content)

    def _rng_states_of_all_ranks(self) -> dict[str, bytes]:
        """File name -> content of every rank's RNG state; ranks may not see rank 0's volume."""
        with tempfile.TemporaryDirectory(prefix="rng-") as aside:
            self._save_rng_state(aside)
            [file] = Path(aside).iterdir()
            contents = gathered_bytes(file.read_bytes())
        own = str(self.args.process_index)
        names = [file.name.replace(own, str(rank)) for rank in range(len(contents))]
        return dict(zip(names, contents, strict=True))

    def _is_true_on_rank_0(self, value: bool) -> bool:
        """Rank 0's value, on every rank: the others may see no files."""
        told = torch.tensor(int(value))
        if self.args.world_size > 1:
            dist.broadcast(told, src=0)
        return bool(told)

    def _warn_of_short_grace(self, save_seconds: float) -> None:
        """Once, on rank 0: what a stop would take, as measured by the first checkpoint."""
        warning = grace_warning(save_seconds, self._step_seconds, self.config.distributed.grace_seconds)
        if warning and self.args.should_save and not self._grace_was_judged:
            print(warning, file=sys.stderr, flush=True)
        self._grace_was_judged = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        load_trainable(self.model, load_file(Path(resume_from_checkpoint) / resume.TRAINABLE_WEIGHTS))

    def load_best(self) -> int:
        """Put the best weights by evaluation loss back into the model (rank 0); returns the step they are from."""
        load_trainable(self.model, self.best.load())
        return int(self.state.best_global_step or self.state.global_step)


def build_trainer(
    config: RunConfig,
    *,
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    train_rows: TokenisedRows,
    validation_rows: TokenisedRows,
    folder: RunFolder,
    world_size: int,
    collator: Collator,
    callbacks: Sequence[TrainerCallback] = (),
    stop: StopRequest | None = None,
    ranks: Ranks | None = None,
    write_history: Callable[[], None] = lambda: None,
) -> ChatTrainer:
    """The trainer of one run; it measures the original model before step 1. Without `stop` nothing stops it early."""
    options = sft_options(config, world_size=world_size, num_train_rows=len(train_rows.rows), folder=folder)
    return ChatTrainer(
        config,
        folder,
        train_rows,
        validation_rows,
        stop or StopRequest(),
        ranks or Ranks(Topology()),
        write_history,
        model=model,
        args=make_sft_config({**options, "eval_on_start": True}, config.trl),
        processing_class=tokenizer,
        data_collator=collator,
        callbacks=list(callbacks),
    )
