"""Every n epochs the model in training answers some validation questions: what the loss does not show, while it trains.

`evaluation.answers_every_epochs=1` turns it on. The ranks share the questions; nothing of it touches training: answers
are greedy, and the model is left as it was found. Rank 0 writes `answers.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, TrainerCallback

from data.files import read_json, write_json
from data.render import IGNORE_INDEX, RenderedRow
from train.batching.tokenise import seeded_subset
from train.fast.frozen_layers import with_trunk
from train.generation.batched import answer_prompts
from train.generation.generate import context_tokens
from train.generation.scores import Sample, score
from train.generation.settings import GenerationSettings
from train.run_context import Run

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Question:
    """A validation row as something to answer."""

    prompt_ids: list[int]
    reference_ids: list[int]
    topic: str | None


def answer_callbacks(run: Run) -> list[TrainerCallback]:
    """Return the callback, if the configuration asks for it."""
    return [AnswerCallback(run)] if run.config.evaluation.answers_every_epochs else []


def as_question(row: RenderedRow, topic: str | None) -> Question:
    """Split a row into its last answer, and all that comes before it.

    >>> as_question(RenderedRow([7, 8, 1, 9, 2, 3], [-100, -100, 1, -100, 2, 3]), None)
    Question(prompt_ids=[7, 8, 1, 9], reference_ids=[2, 3], topic=None)
    """
    end = max(place for place, label in enumerate(row.labels) if label != IGNORE_INDEX) + 1
    start = max((place for place in range(end) if row.labels[place] == IGNORE_INDEX), default=-1) + 1
    return Question(row.input_ids[:start], row.labels[start:end], topic)


class AnswerCallback(TrainerCallback):
    """Answers, scores and records at the end of every n-th epoch; every rank has one."""

    def __init__(self, run: Run) -> None:
        config, data = run.config, run.data
        self.tokenizer, self.folder, self.ranks = run.tokenizer, run.folder, run.ranks
        self.every_epochs = config.evaluation.answers_every_epochs
        self.batch_size = config.evaluation.batch_size
        self.settings = GenerationSettings(max_new_tokens=config.output.max_new_tokens)
        topics = data.validation.topics or [None] * len(data.validation.rows)
        questions = [as_question(row, topic) for row, topic in zip(data.validation.rows, topics, strict=True)]
        chosen = seeded_subset(range(len(questions)), config.evaluation.answers_rows, config.seed)
        self.questions = [questions[number] for number in chosen]

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: PreTrainedModel, **_: Any) -> None:
        epoch = round(state.epoch)
        if epoch % self.every_epochs == 0:
            samples = self._gathered(self._answer(model, in_bf16=args.bf16))
            if self.ranks.topology.is_main:
                self._record(epoch, state.global_step, samples)

    @torch.no_grad()
    def _answer(self, model: PreTrainedModel, *, in_bf16: bool) -> list[Sample]:
        """This rank's share of the questions, answered; those without room for an answer are left out."""
        topology = self.ranks.topology
        most_tokens = context_tokens(model) - self.settings.max_new_tokens
        mine = [
            question
            for question in self.questions[topology.rank :: topology.world_size]
            if len(question.prompt_ids) <= most_tokens  # asked, it would be refused, and end the training
        ]
        was_training = model.training
        model.eval()
        with with_trunk(model), torch.autocast(model.device.type, torch.bfloat16, enabled=in_bf16):
            batched = answer_prompts(
                model,
                self.tokenizer,
                [question.prompt_ids for question in mine],
                self.settings,
                batch_size=self.batch_size,
                on_answered=lambda _: self.ranks.mark(),
            )
        model.train(was_training)
        return [
            Sample(
                question=self._asked(question),
                reference=self.tokenizer.decode(question.reference_ids, skip_special_tokens=True).strip(),
                answer=answer.text,
                num_tokens=len(answer.token_ids),
                reached_end=answer.reached_end,
                topic=question.topic,
            )
            for question, answer in zip(mine, batched.answers, strict=True)
        ]

    def _asked(self, question: Question) -> str:
        """What this row asks, without the part all of them share, such as the system prompt."""
        first, last = min(one.prompt_ids for one in self.questions), max(one.prompt_ids for one in self.questions)
        pairs = enumerate(zip(first, last, strict=False))
        shared = next((place for place, (one, other) in pairs if one != other), 0)
        text: str = self.tokenizer.decode(question.prompt_ids[shared:], skip_special_tokens=True)
        return text.strip()

    def _gathered(self, mine: list[Sample]) -> list[Sample]:
        """The samples of all ranks, on every rank."""
        if self.ranks.topology.world_size == 1:
            return mine
        shares: list[list[Sample]] = [[] for _ in range(self.ranks.topology.world_size)]
        dist.all_gather_object(shares, mine)
        return [sample for share in shares for sample in share]

    def _record(self, epoch: int, step: int, samples: Sequence[Sample]) -> None:
        """Add to `answers.json`; records of steps that a resumed run makes again give way."""
        earlier = [record for record in read_json(self.folder.answers, []) if record["step"] < step]
        found = {name: scores.summary() for name, scores in score(samples).items()}
        record = {
            "epoch": epoch,
            "step": step,
            "rows": len(samples),
            "rows_without_room": len(self.questions) - len(samples),
            "metrics": found,
            "answers": [vars(sample) for sample in samples],
        }
        write_json(self.folder.answers, [*earlier, record])
        means = ", ".join(f"{name} {one['mean']:.1f}" for name, one in found.items() if one.get("mean") is not None)
        print(f"answers at step {step}: {means} ({len(samples)} validation rows)", flush=True)
