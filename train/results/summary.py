"""What a run says of itself: the lines at its start, the demo, `training_summary.json`, the table at the end."""

import json
import os
import platform
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel

from data.files import write_json
from train.generation.batched import answer_prompts, question_prompts
from train.generation.generate import Answer, comparison
from train.generation.settings import GenerationSettings
from train.model.adapt import ParameterCount
from train.model.base import load_model, pick_attention, pick_device, pick_precision
from train.monitoring.recorder import Recorder, peak_memory_bytes
from train.results.publish import load_published
from train.run_context import Run
from train.run_folder.provenance import provenance
from train.run_folder.run_folder import RunFolder
from train.units import human_seconds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def describe_setup(run: Run, parameters: ParameterCount) -> str:
    """Describe model, device, data and learning rate, a line for each."""
    config, data, world_size = run.config, run.data, run.world_size
    optim = config.optim
    lines = [
        f"model      {config.model.name}, {parameters}",
        f"device     {pick_device()}, {str(pick_precision(config.model)).removeprefix('torch.')}, "
        f"attention {pick_attention(config)}, {world_size} rank(s)",
        f"data       {data.facts['train_rows']} training and {data.facts['validation_rows']} validation rows of "
        f"{data.facts['rows']} ({data.facts['truncated_rows']} cut, {data.facts['held_out_rows']} held out)",
        f"rate       {optim.learning_rate:g} -> {config.learning_rate_at(world_size):g} "
        f"({'scaled by the world size' if optim.scale_learning_rate else 'not scaled'}), {optim.schedule}",
    ]
    return "\n".join(lines)


def describe_batch(run: Run, *, was_measured: bool) -> str:
    """Describe the batch of a step and what it is made of."""
    optim, world_size = run.config.optim, run.world_size
    found = " (the most that fit on every rank)" if was_measured else ""
    return (
        f"batch      {optim.batch_size}{found} x {optim.accumulation_steps} accumulation x {world_size} rank(s) = "
        f"{run.effective_batch_size} rows a step"
    )


def write_demo(run: Run, tuned: PreTrainedModel) -> None:
    """Ask the published model and the original one, both freshly loaded, the demo questions."""
    config, folder, data = run.config, run.folder, run.data
    settings = GenerationSettings(max_new_tokens=config.output.max_new_tokens)

    def answers_of(model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase") -> list[Answer]:
        if model.device.type == "cpu":
            model.float()  # then one batch gives every question the answer it gets alone
        prompts = question_prompts(tokenizer, data.demo_questions, data.system_prompt)
        answers: list[Answer] = answer_prompts(model, tokenizer, prompts, settings).answers
        return answers

    tuned_answers = answers_of(*load_published(folder.best_model, tuned))
    original_answers = answers_of(load_model(config, run.tokenizer), run.tokenizer)
    models = {"original": config.model.name, "tuned": str(folder.best_model)}
    write_json(folder.demo, comparison(data.demo_questions, original_answers, tuned_answers, settings, models))


def summary(run: Run, parameters: ParameterCount, recorder: Recorder, best_step: int) -> dict[str, Any]:
    """Return what `training_summary.json` holds: losses in nats per label token, throughput as the median step's."""
    train_losses, evaluation_losses = recorder.losses("step"), recorder.losses("evaluation")
    return {
        **run.resolved.dump(),
        "identity": run.identity,
        "made_by": provenance(),
        "restarts": recorder.num_restarts,
        "hardware": {"device": str(pick_device()), "machine": platform.machine(), "cores": os.cpu_count()},
        "world_size": run.world_size,
        "parameters": {
            "base": parameters.num_base,
            "total": parameters.num_total,
            "trainable": parameters.num_trainable,
            "trainable_share": parameters.trainable_share,
        },
        "data": run.data.facts,
        "precision": str(pick_precision(run.config.model)).removeprefix("torch."),
        "attention": pick_attention(run.config),
        "train_loss": {"first": train_losses[0], "final": train_losses[-1], "best": min(train_losses)},
        "evaluation_loss": {
            "original": evaluation_losses[0],
            "final": evaluation_losses[-1],
            "best": min(evaluation_losses[1:]),  # the first is the original model's
            "best_step": best_step,
        },
        **recorder.throughput(),
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": run.phases.seconds,
    }


def print_outcome(folder: RunFolder) -> None:
    """Print the before / after table, and where everything lies."""
    facts = json.loads(folder.summary.read_text(encoding="utf-8"))
    console = Console(highlight=False)
    if folder.demo.is_file():
        console.print(comparison_table(json.loads(folder.demo.read_text(encoding="utf-8"))))
    loss = facts["evaluation_loss"]
    console.print(
        f"validation loss {loss['original']:.4f} -> {loss['best']:.4f} (best, step {loss['best_step']}), "
        f"training loss {facts['train_loss']['first']:.4f} -> {facts['train_loss']['final']:.4f}, "
        f"{human_seconds(sum(facts['seconds'].values()))} in all",
        soft_wrap=True,
    )
    if loss["best"] >= loss["original"]:
        console.print("The tuned model is no better than the original on the validation rows.", style="bold red")
    for label, path in [
        ("model", folder.best_model),
        ("history", folder.history),
        ("summary", folder.summary),
        ("report", folder.report),
        ("answers", folder.demo),
        ("checkpoints", folder.checkpoints),
    ]:
        console.print(f"{label:<12}{path}", soft_wrap=True)
    console.print(
        f'ask it      python -m inference.ask_tuned_model --run {folder.root} "How do I treat a nosebleed?"',
        soft_wrap=True,
    )


def comparison_table(demo: dict[str, Any]) -> Table:
    """Show a `train.generation.generate.comparison` to people: a line per question, both answers side by side."""
    table = Table("question", "original model", "tuned model", show_lines=True, title="Before and after")
    for response in demo["responses"]:
        table.add_row(*(escape(response[column]) for column in ("question", "original", "tuned")))
    return table
