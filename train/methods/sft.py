"""Supervised fine-tuning: the answers of the rows are learnt, by TRL's own loss; what is TRL's, and what is made exact.

- The evaluation loss is the mean over label tokens of the whole validation set, not a mean of batch means.
- So is the share of label tokens predicted right, between two logs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.render import IGNORE_INDEX
from train.batching.row_dataset import RowDataset
from train.batching.tokenise import TokenisedRows
from train.batching.topics import topic_groups
from train.fast.choose import ChosenPath
from train.fast.fused_head import summed_loss
from train.fault_tolerance.stopping import StopRequest
from train.methods.exact_loop import ExactLoop
from train.methods.trl_options import make_sft_config, sft_options
from train.run_context import Run


class SftTrainer(ExactLoop, SFTTrainer):
    """TRL's SFTTrainer on exact batches, with exact evaluation and committed checkpoints."""

    def __init__(self, run: Run, *args: Any, **kwargs: Any) -> None:
        validation = run.data.validation
        self.validation_rows = RowDataset(validation.rows)
        self.validation_topics = topic_groups(validation.topics or [None] * len(validation.rows))
        self._num_labels: list[int] = []  # of each micro-batch of this rank since the last log
        super().__init__(run, *args, train_rows=RowDataset(run.data.train.rows), **kwargs)
        # The loss is divided by the labels of the whole step, over all ranks, whatever the model's own forward takes.
        self.model_accepts_loss_kwargs = True
        # A mean over the tokens of a micro-batch: another sum for every division of a step, and none of the answers'.
        self.aux_loss_enabled = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss: the mean over the label tokens of the whole step, of every rank and every micro-batch."""
        self._num_labels.append(int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of label tokens predicted right since the last log, over all ranks.

        TRL knows it of every micro-batch, over all ranks, and would average that whatever their sizes.
        """
        if "loss" in logs:
            labels = self.accelerator.reduce(torch.tensor(self._num_labels, device=self.args.device)).double()
            shares = torch.tensor(self._metrics["train"]["mean_token_accuracy"], device=self.args.device)
            logs["token_accuracy"] = float((shares * labels).sum() / labels.sum().clamp(min=1))
            self._num_labels.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Mean negative log-likelihood of the validation set's label tokens, in nats per token; every rank gets it.

        Beside the mean over all rows (`eval_loss`) there is one for each topic (`eval_topic_loss/TOPIC`).
        """
        self.model.eval()
        topics = sorted(set(self.validation_topics))
        sums = torch.zeros(len(topics), 2, dtype=torch.float64)  # of each topic: [summed loss, number of label tokens]
        for topic, batch in self._validation_batches():
            if self.stop.code:
                break
            sums[topics.index(topic)] += self._summed_loss(batch)
            self.ranks.mark()
        sums = self.summed_over_ranks(sums)
        total_loss, total_labels = sums.sum(0)
        metrics = {f"{metric_key_prefix}_loss": (total_loss / total_labels).item()}
        for topic, (topic_loss, topic_labels) in zip(topics, sums.tolist(), strict=True):
            metrics[f"{metric_key_prefix}_topic_loss/{topic}"] = topic_loss / topic_labels
        return self.evaluated(metrics)

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
            output = self.model(**batch, fused_lm_head=True)
        return torch.stack([summed_loss(output).double(), output.label_mask.sum().double()]).cpu()


def as_dataset(rows: TokenisedRows) -> Dataset:
    """The rows as TRL wants to be handed them; batches are then made from `RowDataset`, not from this."""
    return Dataset.from_list([dataclasses.asdict(row) for row in rows.rows])


def build_trainer(
    run: Run,
    model: PreTrainedModel,
    path: ChosenPath,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    stop: StopRequest | None = None,
    write_history: Callable[[], None] = lambda: None,
) -> SftTrainer:
    """The trainer of one run; it measures the original model before step 1. Without `stop` nothing stops it early."""
    data = run.data
    options = sft_options(run.config, world_size=run.world_size, num_train_rows=len(data.train.rows), folder=run.folder)
    return SftTrainer(
        run,
        stop or StopRequest(),
        write_history,
        forward=path.forward,
        model=model,
        args=make_sft_config({**options, "eval_on_start": True}, run.config.trl),
        processing_class=run.tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=run.tokenizer.pad_token_id),
        train_dataset=as_dataset(data.train),
        eval_dataset=as_dataset(data.validation),
        callbacks=list(callbacks),
    )
