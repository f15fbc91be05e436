"""Supervised fine-tuning's own numbers: by label, whatever the sizes of micro-batches and topics."""

import pytest
import torch
from transformers import TrainerCallback

from data.render import IGNORE_INDEX


class KeepLogs(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_token_accuracy_is_of_labels_not_of_micro_batches(tiny_sft, monkeypatch):
    """Two micro-batches a step, of which the second has a third of the labels: TRL's mean would weigh them alike."""
    trainer, _ = tiny_sft("optim.batch_size=1", "optim.accumulation_steps=2", "data.max_train_rows=2", "optim.epochs=1")
    keep = KeepLogs()
    trainer.add_callback(keep)
    right, labels = [], []
    forward = trainer.model.forward

    def watched(*args, **inputs):
        output = forward(*args, **inputs)
        if trainer.model.training:
            right.append(int(output.is_top1.sum()) + len(right))  # as if the second batch had one more right
            output.is_top1 = output.is_top1.float()
            output.is_top1[output.label_mask.nonzero()[0].unbind()] += len(right) - 1
            labels.append(int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()))
        return output

    monkeypatch.setattr(trainer.model, "forward", watched)
    trainer.train()
    (logged,) = [log for log in keep.logs if "token_accuracy" in log]
    assert labels[0] != labels[1]
    assert logged["token_accuracy"] == pytest.approx(sum(right) / sum(labels), rel=1e-6)
    assert logged["mean_token_accuracy"] == pytest.approx((right[0] / labels[0] + right[1] / labels[1]) / 2, rel=1e-6)


def test_the_evaluation_loss_is_a_mean_over_labels_of_all_rows_and_of_each_topic(tiny_sft):
    trainer, _ = tiny_sft("data.max_validation_rows=6", "evaluation.batch_size=4")
    metrics = trainer.evaluate()
    summed = torch.stack([trainer._summed_loss([row]) for row in range(6)])  # [rows, (loss, labels)]
    assert metrics["eval_loss"] == pytest.approx((summed[:, 0].sum() / summed[:, 1].sum()).item(), rel=1e-5)
    topics = {name.partition("/")[2]: loss for name, loss in metrics.items() if name.startswith("eval_topic_loss/")}
    assert topics.keys() == set(trainer.validation_topics)
    for topic, loss in topics.items():
        mine = summed[[row for row in range(6) if trainer.validation_topics[row] == topic]]
        assert loss == pytest.approx((mine[:, 0].sum() / mine[:, 1].sum()).item(), rel=1e-5)


def test_no_batch_mixes_topics(tiny_sft):
    trainer, _ = tiny_sft("data.max_validation_rows=6", "evaluation.batch_size=4")
    batches = list(trainer._validation_batches())
    assert sorted(row for _, rows in batches for row in rows) == list(range(6))
    for topic, rows in batches:
        assert {trainer.validation_topics[row] for row in rows} == {topic}
