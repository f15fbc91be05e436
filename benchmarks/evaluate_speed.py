"""What batching is worth when answers are generated for an evaluation: one by one against all at once, same text.

    python -m benchmarks.evaluate_speed --answers 200 --json evaluate_speed.json
    python -m benchmarks.evaluate_speed --model outputs/laptop --answers 16 --rounds 2 --max-new-tokens 32

The questions of the baked-in data set's validation side, then of its training side, are answered in rounds; in each
round both ways take their turn, the other one first in the next, so that whatever else the machine does falls on both.
Exit 1 if a single answer differs.
"""

import json
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.sft_speed import machine
from data.libraries import prepare_environment
from data.model_files import EMBEDDED_MODEL
from train.failure import RunError
from train.generation.settings import GenerationSettings


@dataclass(frozen=True)
class Round:
    """Seconds for the same questions both ways, and what came of it."""

    single_seconds: float
    batched_seconds: float
    num_answers: int
    num_same: int
    num_alone: int
    num_tokens: int


def main(
    model: Annotated[str, typer.Option(help="As for inference.evaluate.")] = EMBEDDED_MODEL,
    answers: Annotated[int, typer.Option(min=2, help="Questions in all.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Turns each way takes.")] = 4,
    batch_size: Annotated[int, typer.Option(min=2, help="Answers at a time.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of an answer.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """Time answers one by one and batched, and compare them token by token."""
    prepare_environment(offline=True)
    from inference.judging.evaluation import computing_in
    from inference.models.source import source_of

    try:
        loaded = computing_in(source_of(model, verify=False).load(), "fp32")
    except RunError as error:
        raise typer.BadParameter(str(error), param_hint="--model") from None
    prompts = some_prompts(loaded, answers)
    size = -(-len(prompts) // rounds)
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    console, done = Console(highlight=False), []
    for number in range(rounds):
        share = prompts[number * size : (number + 1) * size]
        done.append(take_turns(loaded, share, settings, batch_size, single_first=number % 2 == 0))
        console.print(f"round {number + 1}: {describe(done[-1])}")
    found = as_json(done, model, batch_size, max_new_tokens)
    console.print(
        f"{found['answers']} answers: {found['single_seconds']:.1f} s one by one, {found['batched_seconds']:.1f} s "
        f"batched: {found['ratio']:.1f} x faster ({found['smallest_ratio']:.1f} to {found['largest_ratio']:.1f} over "
        f"the rounds); {found['same']} of {found['answers']} the same token for token; {found['machine']}"
    )
    if json_file:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["same"] != found["answers"]:
        raise typer.Exit(1)


def some_prompts(loaded: Any, number: int) -> list[list[int]]:
    """Token ids of questions of the baked-in data set, held-out ones first."""
    from inference.judging.held_out import held_out_rows

    sides = (held_out_rows(loaded, None, None, side, None) for side in ("validation", "train"))
    return [prompt for side in sides for prompt in side.prompts][:number]


def take_turns(
    loaded: Any, prompts: list[list[int]], settings: GenerationSettings, batch_size: int, *, single_first: bool
) -> Round:
    """Both ways on the same prompts; `single_first`: one by one has the first turn."""
    from train.generation.batched import answer_prompts

    seconds, found = {}, {}
    for way in (1, batch_size) if single_first else (batch_size, 1):
        start = time.perf_counter()
        found[way] = answer_prompts(loaded.model, loaded.tokenizer, prompts, settings, batch_size=way)
        seconds[way] = time.perf_counter() - start
    single, batched = found[1].answers, found[batch_size].answers
    return Round(
        single_seconds=seconds[1],
        batched_seconds=seconds[batch_size],
        num_answers=len(prompts),
        num_same=sum(one == other for one, other in zip(single, batched, strict=True)),
        num_alone=found[batch_size].num_alone,
        num_tokens=sum(len(answer.token_ids) for answer in single),
    )


def describe(one: Round) -> str:
    """One round in words.

    >>> describe(Round(40.0, 8.0, 10, 10, 1, 500))
    '10 answers (500 tokens), 40.0 s one by one, 8.0 s batched, 5.0 x; 10 the same, 1 near tie'
    """
    return (
        f"{one.num_answers} answers ({one.num_tokens} tokens), {one.single_seconds:.1f} s one by one, "
        f"{one.batched_seconds:.1f} s batched, {one.single_seconds / one.batched_seconds:.1f} x; "
        f"{one.num_same} the same, {one.num_alone} near tie"
    )


def as_json(rounds: list[Round], model: str, batch_size: int, max_new_tokens: int) -> dict[str, Any]:
    """Sums over the rounds, and the ratio of the whole, the smallest and the largest round."""
    single, batched = (sum(getattr(one, f"{way}_seconds") for one in rounds) for way in ("single", "batched"))
    ratios = [one.single_seconds / one.batched_seconds for one in rounds]
    return {
        "model": model,
        "machine": machine(),
        "date": date.today().isoformat(),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "answers": sum(one.num_answers for one in rounds),
        "tokens": sum(one.num_tokens for one in rounds),
        "same": sum(one.num_same for one in rounds),
        "near_ties": sum(one.num_alone for one in rounds),
        "single_seconds": single,
        "batched_seconds": batched,
        "ratio": single / batched,
        "smallest_ratio": min(ratios),
        "largest_ratio": max(ratios),
        "rounds": [vars(one) for one in rounds],
    }


if __name__ == "__main__":
    typer.run(main)
