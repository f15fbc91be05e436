"""The proof of an exported file for people: how far llama.cpp's answers agree with ours. No torch here."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from inference.gguf.write import beside


def say_what_was_written(output: Path, result: dict[str, Any] | None) -> None:
    """Print the files that were written, and the proof or in yellow that there is none."""
    console = Console(highlight=False)
    if result is None:
        console.print("NOT CHECKED: whether llama.cpp answers as the model does (--no-check)", style="bold yellow")
    else:
        console.print(agreement_table(result))
    lines = [f"{output}  {output.stat().st_size / 1e6:,.1f} MB", f"{beside(output, 'Modelfile')}  for Ollama"]
    lines += [f"{beside(output, 'check.json')}  the proof"] * (result is not None)
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def agreement_table(result: dict[str, Any]) -> Table:
    """Show the proof to people: a line per question, how far the answers agree."""
    table = Table(
        "question",
        "prompt tokens",
        "equal answer tokens",
        "first difference",
        title=f"{result['llama_cpp']} against {result['reference']}: {result['weights']}",
        caption=f"prompts token for token the same, greedy, at most {result['max_new_tokens']} tokens",
    )
    for one in result["answers"]:
        gap = "none" if one["gap_nats"] is None else f"{one['gap_nats']:.3f} nats apart"
        agreed = f"{one['equal_tokens']} of {one['reference_tokens']}"
        table.add_row(one["question"], f"{one['prompt_tokens']}, equal", agreed, gap)
    return table
