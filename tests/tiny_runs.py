"""Runs whose every step takes milliseconds, with everything in them that a real one has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.dataset import write_dataset
from data.schema import Example
from train.batching.tokenise import TokenisedRows, TrainingData
from train.config.run_config import ResolvedConfig
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.failure import Phases
from train.run_context import Run
from train.run_folder.run_folder import RunFolder

NUM_ROWS = 44
WORDS = ("rope", "knot", "fire", "water", "map", "knife", "tent", "whistle", "compass", "stove", "lamp")

TINY_MODEL = (
    *(f"model.random_init.{name}=16" for name in ("hidden_size", "intermediate_size")),
    *(f"model.random_init.num_{name}=2" for name in ("attention_heads", "key_value_heads")),
    "model.random_init.num_hidden_layers=3",
    "adapt.last_n_layers=1",
    "adapt.head=frozen",
)
"""Over the smoke recipe: most of its time goes into the gradients of an LM head for 49,152 tokens."""

PLAIN = ("speed.prefix_sharing=off",)
CACHED = ("speed.activation_cache=on",)


def tiny_run(folder: Path, world_size: int, *more: str, epochs: int = 3) -> list[str]:
    """Arguments of a run with 24 rows a step on any of 1, 2, 3 or 4 ranks: two steps an epoch, the second of 9 rows.

    Each step is two micro-batches on every rank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        Example(
            f"What is a {WORDS[n % len(WORDS)]} for, in case {n} of {NUM_ROWS}?", f"Use {n}.", topic=f"Topic {n % 2}"
        )
        for n in range(NUM_ROWS)
    ]
    write_dataset(rows, folder / "tiny.parquet")
    (folder / "prompt.txt").write_text("You answer in a word.\n")
    return [
        "smoke",
        *TINY_MODEL,
        f"data.dir={folder}",
        "data.dataset=tiny.parquet",
        "data.system_prompt=prompt.txt",
        "data.max_train_rows=33",
        "data.max_validation_rows=4",
        f"optim.epochs={epochs}",
        "optim.effective_batch_size=24",
        f"optim.batch_size={12 // world_size}",
        "optim.scale_learning_rate=false",
        "evaluation.every_steps=2",
        "evaluation.batch_size=1",
        "output.checkpoint_every_steps=2",
        "output.demo=false",
        *more,
    ]


def run_of(
    resolved: ResolvedConfig, tokenizer: Any = None, data: TrainingData | None = None, world_size: int = 1
) -> Run:
    """The run that `train.run` would build on rank 0; of more than one, without a group they could meet in."""
    nothing = TokenisedRows([], 0, 0)
    return Run(
        resolved,
        RunFolder(resolved.config.output.dir),
        Ranks(Topology(world_size=world_size)),
        tokenizer,
        data or TrainingData(nothing, nothing, "", [], {}),
        identity={},
        phases=Phases(),
    )


def without(arguments: Sequence[str], *names: str) -> list[str]:
    """Arguments, but for some settings."""
    return [argument for argument in arguments if argument.partition("=")[0] not in names]
