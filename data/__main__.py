"""Build, split and look at data sets: `python -m data --help`.

    python -m data build data/qa_dataset.jsonl --output data/qa_dataset.parquet
    python -m data split data/qa_dataset.parquet --validation-fraction 0.1 --seed 42
    python -m data stats data/qa_dataset.parquet
    python -m data preview data/qa_dataset.parquet --rows 3

Exit codes: 0 done, 2 bad command line, 3 bad data, 4 the model's tokenizer cannot be loaded, 204 the disk is full or
what is to be written cannot be.
"""

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from data.build import BuildOptions, OnError, allowed_drops, build, request_of
from data.dataset import read_dataset, read_prompt, read_questions, write_dataset
from data.manifest import Manifest, is_up_to_date, manifest_path
from data.progress import progress_on
from data.schema import ColumnMap, DataError, Example, Limits, topic_of
from data.split import Split, count_leaks, split_examples
from data.stats import NO_TOPIC, dataset_stats, legend, num_trained, preview_text, segments, stats_tables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from data.render import RenderedRow

DATA_ERROR_EXIT_CODE = 3
MODEL_ERROR_EXIT_CODE = 4
STORAGE_ERROR_EXIT_CODE = 204
SIGTERM_EXIT_CODE = 143

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def parse_columns(text: str) -> ColumnMap:
    """Read which of the source's columns hold which field.

    >>> parse_columns("question=Q,answer=A").question
    'Q'
    """
    known = {field.name.replace("_", "-"): field.name for field in fields(ColumnMap)}
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    for name, _, column in pairs:
        if name.strip() not in known or not column:
            raise typer.BadParameter(f"'{name}' is not NAME=COLUMN with a NAME of {', '.join(known)}")
    return ColumnMap(**{known[name.strip()]: column.strip() for name, _, column in pairs})


def parse_max_dropped(text: str) -> str:
    """Check that it is `1%` or a number of rows, and return it."""
    try:
        allowed_drops(text, num_rows=1)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is neither a number of rows nor a percentage such as 1%") from error
    return text


PathArgument = Annotated[Path, typer.Argument(help="A built data set.")]
ModelOption = Annotated[str, typer.Option("--model", help="Whose tokenizer: hub id, folder, or 'embedded'.")]
SystemPromptOption = Annotated[Path, typer.Option(help="The system prompt put before every row.")]
MaxLengthOption = Annotated[int, typer.Option(min=1, help="Rows are cut after this many tokens.")]
DateOption = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The date that the chat template is frozen at.")
]
DATASET_PATH = Path("data/qa_dataset.parquet")
SYSTEM_PROMPT_PATH = Path("data/prompts/wilderness_expert.txt")
DEMO_QUESTIONS_PATH = Path("data/prompts/demo_questions.txt")


@app.command("build")
def build_command(
    sources: Annotated[list[str], typer.Argument(help=".jsonl, .csv (also .gz), .parquet, or hf://owner/name")],
    output: Annotated[Path, typer.Option(help="The Parquet file to write; its manifest goes beside it.")],
    columns: Annotated[
        ColumnMap,
        typer.Option(parser=parse_columns, metavar="NAME=COLUMN,...", help="question=Q,answer=A,topic=T"),
    ] = "",  # type: ignore[assignment]  # typer parses the default
    on_error: Annotated[OnError, typer.Option(help="Stop at a bad row, or drop and count it.")] = "fail",
    max_dropped: Annotated[
        str, typer.Option(parser=parse_max_dropped, metavar="N|P%", help="Most bad rows that may be dropped.")
    ] = "1%",
    max_chars: Annotated[int, typer.Option(min=1, help="Longest row, in characters.")] = 20_000,
    near_duplicate_jaccard: Annotated[
        float, typer.Option(min=0.8, max=1.0, help="How alike near duplicates are.")
    ] = 0.9,
    keep_near_duplicates: Annotated[bool, typer.Option("--keep-near-duplicates")] = False,
    if_stale: Annotated[bool, typer.Option("--if-stale", help="Do nothing if the output is up to date.")] = False,
) -> None:
    """Check rows, drop duplicates, write Parquet and a manifest that accounts for every row."""
    options = BuildOptions(
        columns=columns,
        limits=Limits(max_row_chars=max_chars),
        on_error=on_error,
        max_dropped=max_dropped,
        near_duplicate_jaccard=None if keep_near_duplicates else near_duplicate_jaccard,
    )
    if if_stale and is_up_to_date(output, request_of(sources, options)[1]):
        typer.echo(f"{output} is up to date.")
        return
    with progress_on(Console(stderr=True)) as progress:
        manifest = build(sources, output, options, progress)
    _print_account(manifest, output)


@app.command("split")
def split_command(
    path: PathArgument = DATASET_PATH,
    validation_fraction: Annotated[float, typer.Option(help="Share of rows for validation.")] = 0.1,
    seed: int = 42,
    held_out: Annotated[Path, typer.Option(help="Questions kept out of both sides.")] = DEMO_QUESTIONS_PATH,
    output_dir: Annotated[Path | None, typer.Option(help="Write train.parquet and validation.parquet here.")] = None,
) -> None:
    """Show the leak-free split that training makes of a data set; write both sides if asked."""
    examples = read_dataset(path)
    split = split_examples(
        examples,
        validation_fraction=validation_fraction,
        seed=seed,
        held_out_questions=read_questions(held_out),
    )
    train = [examples[row] for row in split.train]
    validation = [examples[row] for row in split.validation]
    Console().print(_split_table(examples, split))
    typer.echo(f"leakage check: {count_leaks(train, validation)} near pairs of questions across the sides")
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_dataset(train, output_dir / "train.parquet")
        write_dataset(validation, output_dir / "validation.parquet")
        typer.echo(f"wrote {output_dir / 'train.parquet'} and {output_dir / 'validation.parquet'}")


@app.command("stats")
def stats_command(
    path: PathArgument = DATASET_PATH,
    model: ModelOption = "embedded",
    system_prompt: SystemPromptOption = SYSTEM_PROMPT_PATH,
    max_length: MaxLengthOption = 1024,
    date: DateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Token lengths, topics, repeats, and how much is truncated and trained on."""
    examples = read_dataset(path)
    rendered = _render(examples, _load_tokenizer(model, date), read_prompt(system_prompt))
    stats = dataset_stats(examples, rendered, max_length)
    if as_json:
        typer.echo(json.dumps(asdict(stats), indent=2, ensure_ascii=False))
    else:
        Console().print(stats_tables(stats))


@app.command("preview")
def preview_command(
    path: PathArgument = DATASET_PATH,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    seed: Annotated[int, typer.Option(help="Which rows.")] = 42,
    model: ModelOption = "embedded",
    system_prompt: SystemPromptOption = SYSTEM_PROMPT_PATH,
    date: DateOption = None,
) -> None:
    """Show rows as the model sees them, what is trained on in colour."""
    examples, tokenizer, prompt = read_dataset(path), _load_tokenizer(model, date), read_prompt(system_prompt)
    console = Console(highlight=False, soft_wrap=True)
    coloured = console.is_terminal and not console.no_color
    console.print(legend(coloured=coloured))
    for row in sorted(random.Random(seed).sample(range(len(examples)), min(rows, len(examples)))):
        rendered = _render([examples[row]], tokenizer, prompt)[0]
        counts = f"{len(rendered.input_ids)} tokens, {num_trained(rendered.labels)} trained on"
        console.rule(f"row {row + 1} · {topic_of(examples[row]) or NO_TOPIC} · {counts}", style="none")
        console.print(preview_text(segments(rendered, tokenizer.decode), coloured=coloured))


def _load_tokenizer(model: str, date: datetime | None) -> "PreTrainedTokenizerBase":
    from data.tokenizer import TemplateError, load_chat_tokenizer

    try:
        return load_chat_tokenizer(model, date=date and date.date())
    except (OSError, TemplateError) as error:
        _leave(f"the tokenizer of {model} cannot be loaded: {_one_line(error)}", MODEL_ERROR_EXIT_CODE, "model")


def _render(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", system_prompt: str
) -> "list[RenderedRow]":
    from data.render import render_training_row

    with progress_on(Console(stderr=True)) as progress:
        progress.stage("tokenizing", len(examples))
        rendered = []
        for row, example in enumerate(examples):
            rendered.append(render_training_row(tokenizer, example.conversation(system_prompt)))
            progress.advance(row)
    return rendered


def _print_account(manifest: Manifest, output: Path) -> None:
    """The build in a few lines: rows in, out, and dropped by reason with the first examples."""
    for reason, dropped in manifest["dropped"].items():
        typer.echo(f"dropped {dropped['count']} as {reason}, such as:")
        for example in dropped["examples"]:
            typer.echo(f"  {example}")
    typer.echo(f"{manifest['rows_in']} rows in, {manifest['rows_out']} out: {output}, {manifest_path(output)}")
    for topic, count in manifest["topics"].items():
        typer.echo(f"  {count:7,}  {topic}")


def _split_table(examples: Sequence[Example], split: Split) -> Table:
    sides = {side: Counter(topic_of(examples[row]) or NO_TOPIC for row in rows) for side, rows in asdict(split).items()}
    table = Table("topic", *(name.replace("_", " ") for name in sides))
    for topic in sorted(set().union(*sides.values())):
        table.add_row(topic, *(str(counts[topic]) for counts in sides.values()))
    table.add_section()
    table.add_row("all", *(str(counts.total()) for counts in sides.values()))
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _leave(sentence: str, exit_code: int, failure_class: str) -> NoReturn:
    """Say why in one line on stderr, in the form every program here has, and exit."""
    typer.echo(f"error: {sentence} [exit {exit_code}: {failure_class}]", err=True)
    sys.exit(exit_code)


def main() -> None:
    """Run the command line; bad data is one line on stderr and exit code 3."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))  # so that temporary files are removed
    try:
        app(prog_name="python -m data")
    except DataError as error:
        _leave(_one_line(error), DATA_ERROR_EXIT_CODE, "data")
    except BrokenPipeError:  # `... | head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # what is read is a DataError, so this was being written
        where = error.filename or "the output"
        reason = os.strerror(error.errno) if error.errno else _one_line(error)
        remedy = "Free space there, or write elsewhere."
        _leave(f"{where} cannot be written ({reason}). {remedy}", STORAGE_ERROR_EXIT_CODE, "storage")


if __name__ == "__main__":
    main()
