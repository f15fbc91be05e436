"""What one model does: its loss on every held-out row, its answers, every metric of them, and the safety rules."""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inference.judging.held_out import HeldOut
from inference.judging.intervals import Interval, mean_interval
from inference.judging.safety import Rule, judge_all, questions_of
from inference.models.load import LoadedModel
from train.generation.batched import DEFAULT_BATCH_SIZE, Batched, answer_prompts, question_prompts
from train.generation.generate import Answer
from train.generation.row_loss import RowLoss, row_losses
from train.generation.scores import METRICS, Metric, Sample, Scores, score
from train.generation.settings import GenerationSettings

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Judging:
    """This is how models are judged; it is the same for all that are compared."""

    settings: GenerationSettings
    metrics: Sequence[Metric] = METRICS
    rules: Sequence[Rule] = ()
    questions: Sequence[str] = ()
    """Asked besides, to be read by people: there is no reference answer."""
    batch_size: int = DEFAULT_BATCH_SIZE
    on_progress: OnProgress = lambda what, done, total: None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation is one model, judged. The model itself is gone: two need not fit in memory."""

    facts: dict[str, Any]
    held_out: HeldOut
    losses: list[RowLoss]
    samples: list[Sample]
    scores: dict[str, Scores]
    asked: list[Answer]
    safety: list[dict[str, Any]]
    timing: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return what `--json` writes; there must be rows."""
        return {
            "model": self.facts,
            "data": self.held_out.facts,
            "loss": {**loss_interval(self.losses).dump(), "by_topic": self.by_topic()},
            "metrics": {name: metric_record(scores) for name, scores in self.scores.items()},
            "safety": self.safety,
            "timing": self.timing,
            "answers": [self._row(number) for number in range(len(self.samples))],
        }

    def by_topic(self) -> dict[str, dict[str, Any]]:
        """Return rows, loss and every metric's mean of each topic."""
        topics, found = self.held_out.topics, {}
        for topic in sorted(set(topics)):
            rows = [number for number, of_row in enumerate(topics) if of_row == topic]
            means = {
                name: Scores(tuple(scores.values[row] for row in rows)).summary()["mean"]
                for name, scores in self.scores.items()
                if scores.error is None
            }
            found[topic] = {"rows": len(rows), "loss": mean_loss([self.losses[row] for row in rows]), **means}
        return found

    def _row(self, number: int) -> dict[str, Any]:
        sample, loss = self.samples[number], self.losses[number]
        values = {name: scores.values[number] for name, scores in self.scores.items() if scores.error is None}
        return {**vars(sample), "loss": loss.summed / loss.num_labels, **values}


def evaluate(loaded: LoadedModel, held_out: HeldOut, judging: Judging) -> Evaluation:
    """Score and answer every row, and answer the questions that stand alone."""
    started = time.monotonic()
    losses = _losses(loaded, held_out, judging)
    scored = time.monotonic()
    on_rows = _answers(loaded, held_out.prompts, judging, "answers")
    answered = time.monotonic()
    rule_questions = questions_of(judging.rules)
    prompts = question_prompts(loaded.tokenizer, [*judging.questions, *rule_questions], loaded.system_prompt)
    on_questions = _answers(loaded, prompts, judging, "questions")
    num_questions = len(judging.questions)
    by_rule = dict(zip(rule_questions, (one.text for one in on_questions.answers[num_questions:]), strict=True))
    samples = [
        Sample(example.question, example.answer, answer.text, len(answer.token_ids), answer.reached_end, topic)
        for example, answer, topic in zip(held_out.examples, on_rows.answers, held_out.topics, strict=True)
    ]
    timing = {
        "loss_seconds": round(scored - started, 3),
        "answer_seconds": round(answered - scored, 3),
        "batch_size": judging.batch_size,
        "answered_alone": on_rows.num_alone + on_questions.num_alone,
    }
    return Evaluation(
        facts={**loaded.facts(), "prompts_sha256": prompts_sha256([*held_out.prompts, *prompts])},
        held_out=held_out,
        losses=losses,
        samples=samples,
        scores=score(samples, judging.metrics) if samples else {},
        asked=on_questions.answers[:num_questions],
        safety=judge_all(judging.rules, by_rule),
        timing=timing,
    )


def _losses(loaded: LoadedModel, held_out: HeldOut, judging: Judging) -> list[RowLoss]:
    def on_scored(done: int) -> None:
        judging.on_progress(f"{loaded.role} model: loss", done, len(held_out.rows))

    return row_losses(loaded.model, held_out.rows, batch_size=judging.batch_size, on_scored=on_scored)


def _answers(loaded: LoadedModel, prompts: Sequence[list[int]], judging: Judging, what: str) -> Batched:
    def on_answered(done: int) -> None:
        judging.on_progress(f"{loaded.role} model: {what}", done, len(prompts))

    return answer_prompts(
        loaded.model,
        loaded.tokenizer,
        prompts,
        judging.settings,
        batch_size=judging.batch_size,
        on_answered=on_answered,
    )


def computing_in(loaded: LoadedModel, precision: str) -> LoadedModel:
    """Return the model as it is to be judged. `auto`: fp32 on a CPU, where answers are then the same in any batch.

    Weights saved in bf16 are the same numbers in fp32; the hash stays that of the saved weights.
    """
    _ = loaded.weights_sha256  # of the weights as saved: kept from before they change their type
    if precision == "fp32" or (precision == "auto" and loaded.model.device.type == "cpu"):
        loaded.model.float()
    return loaded


def prompts_sha256(prompts: Sequence[Sequence[int]]) -> str:
    """Hash the token ids of all prompts, in order."""
    return hashlib.sha256(json.dumps([list(prompt) for prompt in prompts]).encode()).hexdigest()


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Return nats per label token over some rows.

    >>> mean_loss([RowLoss(6.0, 2), RowLoss(2.0, 2)])
    2.0
    """
    return sum(loss.summed for loss in losses) / sum(loss.num_labels for loss in losses)


def loss_interval(losses: Sequence[RowLoss]) -> Interval:
    """Return the mean loss per label token over some rows, in nats, and how far it can be trusted."""
    return mean_interval([loss.summed for loss in losses], [loss.num_labels for loss in losses])


def metric_record(scores: Scores) -> dict[str, Any]:
    """Return mean, number of rows and interval; or the error of a metric that failed."""
    known = [value for value in scores.values if value is not None]
    return {**scores.summary(), **(mean_interval(known).dump() if known else {})}


def free_memory() -> None:
    """Give back what a model held, also on a GPU; called after its last use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
