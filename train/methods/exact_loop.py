"""The training loop that every method shares, exact where TRL's is not; a mixin before any of TRL's trainers.

- Training rows are dealt by `EpochBatches`: the same rows in every step for any world size, none dropped or repeated.
- A checkpoint holds what trains, and counts once it is committed.
- A request to stop, to any rank, ends all ranks in the same step, saved.

What is learnt is the method's own page (`train.methods.sft`): its rows, its evaluation, its metrics; its loss is TRL's.

    TRL's Trainer calls             and gets here
    get_train_dataloader            the step's rows of this rank             EpochBatches
    training_step                   a sign of life after each micro-batch
    log, after every step           what any rank was asked: stop, save      one small all-reduce
    _maybe_log_save_evaluate        the end of the step: leave, if all do
    _save_checkpoint                rank 0 writes, the marker last; all learn whether it could
    _evaluate                       before step 1 too, and after a resume what a stop had put off
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback

from train.batching.batches import EpochBatches
from train.batching.row_dataset import RowDataset
from train.distributed.exchange import broadcast_only_what_trains, gathered_bytes, round_gradients_to_bf16
from train.failure import FREE_SPACE, ExitCode, StorageError
from train.fast.fused_head import Forward, add_fast_forward
from train.fault_tolerance import checkpoints
from train.fault_tolerance.stopping import GO_ON, StoppedError, StopRequest, grace_warning
from train.model.adapt import load_trainable, trainable_parameters
from train.run_context import Run
from train.run_folder.retries import RETRY_SECONDS, pauses
from train.run_folder.run_folder import COMMITTED
from train.run_folder.saved_weights import BestWeights

STOP_CODES = (ExitCode.STOPPED, ExitCode.INTERRUPTED)

Batch = dict[str, torch.Tensor]


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


class ExactLoop(Trainer):
    """Comes before one of TRL's trainers among a method's base classes, so that `super()` is that trainer."""

    def __init__(
        self,
        run: Run,
        stop: StopRequest,
        write_history: Callable[[], None],
        *,
        train_rows: RowDataset,
        forward: Forward | None,
        **trl: Any,
    ) -> None:
        """`trl` is what TRL's trainer is made with; `forward` computes its fused head, TRL's own where it is None."""
        self.run, self.stop, self.write_history, self.train_rows = run, stop, write_history, train_rows
        self.config, self.folder, self.ranks = run.config, run.folder, run.ranks
        self._agreed_stop: ExitCode | None = None
        self._saved_at = self._step_began = time.monotonic()
        self._step_seconds, self._grace_was_judged = 0.0, False
        self.best = BestWeights(run.folder.checkpoints / checkpoints.BEST_WEIGHTS)
        super().__init__(**trl)
        self.remove_callback(PrinterCallback)
        if forward is not None:
            add_fast_forward(self.model, forward)
        if self.args.world_size > 1:
            broadcast_only_what_trains(self.model)
            if run.config.distributed.gradient_compression == "bf16":
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

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's own, and the moment when a step begins."""
        self._step_began = time.monotonic()
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's own, and a sign of life."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.ranks.mark()
        return loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with requests to stop left to the end of a step."""
        with self.stop.left_to_trainer():
            return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's own; every rank learns besides whether any was asked to stop, and whether a checkpoint is due."""
        due = 0
        if "loss" in logs:
            told = torch.tensor([*self._stop_votes(), self._checkpoint_is_due()], device=self.args.device)
            *votes, due = self.accelerator.reduce(told).tolist()
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

    def summed_over_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        """What every rank found in its share of an evaluation (float64, on the CPU), added up.

        Where a rank was asked to stop meanwhile, the step is saved and all leave; the resumed run begins with this
        evaluation.
        """
        votes = torch.tensor(self._stop_votes(), dtype=torch.float64)
        if self.args.world_size > 1:
            dist.all_reduce(told := torch.cat([sums.flatten(), votes]))
            sums, votes = told[: sums.numel()].view_as(sums), told[sums.numel() :]
        self._agreed_stop = agreed_stop(votes.tolist())
        if self._agreed_stop:
            if self.state.global_step:
                self._save_checkpoint(self.model, None)
            self._stop_here()
        return sums

    def evaluated(self, metrics: dict[str, float]) -> dict[str, float]:
        """Tell the log and the callbacks what an evaluation found."""
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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
        written = self.args.should_save and checkpoints.write_checkpoint(
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
        save_file(tensors, checkpoint / checkpoints.TRAINABLE_WEIGHTS)
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
        load_trainable(self.model, load_file(Path(resume_from_checkpoint) / checkpoints.TRAINABLE_WEIGHTS))

    def load_best(self) -> int:
        """Put the best weights by evaluation loss back into the model (rank 0); returns the step they are from."""
        load_trainable(self.model, self.best.load())
        return int(self.state.best_global_step or self.state.global_step)
