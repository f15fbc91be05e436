"""Which rows a model is judged on: those its own run held out, and the proof that they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.dataset import dataset_fingerprint, read_dataset, read_questions
from data.render import RenderedRow, render_prompt, render_training_row
from data.schema import Example
from inference.judging.options import Split
from inference.models.published import PublishedModel, run_data_config
from train.batching.tokenise import TokenisedRows, TrainingData, seeded_subset, split_configured, tokenise
from train.config.run_config import RunConfig

if TYPE_CHECKING:
    from inference.models.load import LoadedModel


@dataclass(frozen=True)
class HeldOut:
    """These rows have reference answers, and are as the model sees them."""

    examples: list[Example]
    rows: list[RenderedRow]
    """Cut to the run's length, so that their loss is the one training reports."""
    prompts: list[list[int]]
    """Token ids up to where the last answer begins."""
    facts: dict[str, Any]

    @classmethod
    def nothing(cls) -> "HeldOut":
        """Make the set without rows, for a comparison of questions alone."""
        return cls([], [], [], {"rows": 0})

    @property
    def topics(self) -> list[str]:
        """Return each row's topic, or that it has none."""
        return [example.topic or "no topic" for example in self.examples]


def held_out_rows(
    loaded: "LoadedModel",
    published: PublishedModel | None,
    dataset: Path | None,
    split: Split,
    limit: int | None,
) -> HeldOut:
    """Return the rows of `split`, cut by the run's own seed, fraction and demo questions; `limit`: a seeded subset.

    Raises:
        DataError: there is no such data set, or it cannot be split.
    """
    config = run_data_config(published)
    path = dataset or config.data_file(config.data.dataset)
    examples = read_dataset(path)
    demo_questions = read_questions(config.data_file(config.data.demo_questions))
    sides = split_configured(config, examples, demo_questions)
    numbers = {"train": sides.train, "validation": sides.validation, "all": range(len(examples))}[split]
    chosen = [examples[number] for number in seeded_subset(list(numbers), limit, config.seed)]
    rows = _tokenised(loaded, config, chosen)
    # A row whose answer was cut off entirely has nothing to be judged by. It is counted, not passed over in silence.
    kept = [(example, row) for example, row in zip(chosen, rows, strict=True) if row.num_label_tokens]
    facts = {
        "dataset": str(path),
        "dataset_sha256": dataset_fingerprint(path),
        "split": split,
        "rows": len(kept),
        "rows_without_label": len(chosen) - len(kept),
        "of_rows": len(numbers),
        "proved_held_out": split == "validation" and _is_the_runs_own(loaded, published, config, examples, sides),
    }
    return HeldOut(
        examples=[example for example, _ in kept],
        rows=[row for _, row in kept],
        prompts=[
            render_prompt(loaded.tokenizer, example.conversation(loaded.system_prompt)[:-1]) for example, _ in kept
        ],
        facts=facts,
    )


def _tokenised(loaded: "LoadedModel", config: RunConfig, examples: Sequence[Example]) -> list[RenderedRow]:
    whole = (render_training_row(loaded.tokenizer, example.conversation(loaded.system_prompt)) for example in examples)
    return [row.truncated(config.data.max_length_tokens) for row in whole]


def _is_the_runs_own(
    loaded: "LoadedModel", published: PublishedModel | None, config: RunConfig, examples: Sequence[Example], sides: Any
) -> bool:
    """Whether both sides of the split, token for token, are those the run recorded."""
    if published is None:
        return False

    def side(numbers: Sequence[int]) -> TokenisedRows:
        return tokenise(
            loaded.tokenizer,
            [examples[number] for number in numbers],
            system_prompt=loaded.system_prompt,
            max_length_tokens=config.data.max_length_tokens,
            # The run has refused what was cut too often; here the same rows are only made again.
            max_truncated_fraction=1.0,
        )

    data = TrainingData(side(sides.train), side(sides.validation), loaded.system_prompt, [], {})
    return data.fingerprint().startswith(str(published.manifest["identity"].get("data")))
