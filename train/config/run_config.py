"""RunConfig: everything that decides a run, where each value came from, and errors that name the field.

Precedence: command line > environment > recipe > default. No torch here: `deploy` reads configurations too.
"""

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from data.model_files import EMBEDDED_MODEL
from data.tokenizer import DEFAULT_TEMPLATE_DATE, DEFAULT_TEMPLATE_VARIABLES
from train.config.yaml_files import flatten, load_recipe, nearest, parse_override, recipe_path
from train.failure import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_RECIPE = "laptop"

ENVIRONMENT = {
    "EPOCHS": "optim.epochs",
    "BATCH_SIZE": "optim.batch_size",
    "LEARNING_RATE": "optim.learning_rate",
    "DATA_DIR": "data.dir",
    "OUTPUT_DIR": "output.dir",
    "MODEL_NAME": "model.name",
}
"""Environment variables users rely on (`RECIPE` besides), and the field each one sets."""

SECRET_SETTING = re.compile(r"(hub_token|api_key|password|secret)$")
"""Settings are written down and shown, so none may hold a secret; what TRL's options are called that do."""

# YAML reads the bare words on and off as true and false.
Switch = Annotated[
    Literal["auto", "on", "off"], BeforeValidator(lambda value: {True: "on", False: "off"}.get(value, value))
]
Trackers = Annotated[
    list[Literal["tensorboard", "mlflow", "aim"]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]

FIRST_GUESS_ROWS = 8
"""Rows per micro-batch that an automatic batch size counts as until it is measured."""


# Told apart before it is judged, so that a wrong value gets one error, of a number.
BatchSize = Annotated[
    Annotated[PositiveInt, Tag("rows")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if value == "auto" else "rows"),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    name: str = Field(EMBEDDED_MODEL, description="`embedded`, a hub id, a folder or a .gguf file")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    random_init: dict[str, Any] | None = Field(
        None, description="architecture overrides; weights are then random, not loaded (smoke tests, benchmarks)"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the device has it natively, else fp32"
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        "auto", description="auto: flash_attention_2 on a GPU where it is installed, else sdpa"
    )
    offline: bool = Field(False, description="never ask the hub; everything must be on this machine")


class AdaptConfig(Section):
    layers: Literal["last_n", "all"] = Field("last_n", description="which transformer layers train")
    last_n_layers: PositiveInt = 2
    head: Literal["untied", "tied", "frozen"] = Field(
        "untied", description="LM head: a trained copy, trained with the input embedding, or not trained"
    )


class DataConfig(Section):
    dir: Path = Field(Path("data"), description="folder of the data set; prompts may lie there too")
    dataset: Path = Field(Path("qa_dataset.parquet"), description="built by `python -m data build`; relative to dir")
    system_prompt: Path = Field(Path("prompts/wilderness_expert.txt"), description="relative to dir, or to data/")
    demo_questions: Path = Field(Path("prompts/demo_questions.txt"), description="never trained on")
    max_length_tokens: PositiveInt = 1024
    max_truncated_fraction: Fraction = Field(0.03, description="refuse to train when more rows than this are cut")
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    max_train_rows: PositiveInt | None = Field(None, description="train on a seeded subset of this many rows")
    max_validation_rows: PositiveInt | None = Field(None, description="validate on a seeded subset")
    template_date: datetime.date = Field(DEFAULT_TEMPLATE_DATE, description="what the chat template takes for today")
    template_variables: dict[str, bool | str] = Field(
        dict(DEFAULT_TEMPLATE_VARIABLES), description="chat template variables, frozen into the saved template"
    )


class OptimConfig(Section):
    epochs: PositiveInt = 4
    batch_size: BatchSize = Field(
        8, description="rows per device and micro-batch; auto: the most that fit, measured (needs effective_batch_size)"
    )
    accumulation_steps: PositiveInt = Field(2, description="micro-batches per optimizer step and rank")
    effective_batch_size: PositiveInt | None = Field(
        None, description="rows per optimizer step over all ranks; accumulation_steps then follows from it, unread"
    )
    learning_rate: PositiveFloat = Field(5e-5, description="base rate, for one process")
    scale_learning_rate: bool = Field(True, description="multiply the base rate by the world size")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_fraction: Fraction = Field(0.05, description="share of all steps spent warming up")
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: NonNegativeFloat = 1.0
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _auto_needs_an_effective_batch(self) -> "OptimConfig":
        if self.batch_size == "auto" and self.effective_batch_size is None:
            raise ConfigError(
                "optim.batch_size=auto changes the micro-batch, not the step, so the rows of a step must be given",
                "Set optim.effective_batch_size, for example to 64.",
            )
        return self


class SpeedConfig(Section):
    """Exact faster paths. auto: where it is exact for this model, else the plain path, saying why; on: or refuse."""

    prefix_sharing: Switch = Field("auto", description="compute what the rows of a batch have in common once")
    activation_cache: Switch = Field(
        "auto", description="run the frozen lower layers once per row, not once per epoch; needs prefix sharing"
    )


class EvaluationConfig(Section):
    every_steps: PositiveInt | None = Field(None, description="default: at the end of every epoch")
    batch_size: PositiveInt = 8
    answers_every_epochs: PositiveInt | None = Field(
        None, description="answer validation questions while training, and score the answers, into answers.json"
    )
    answers_rows: PositiveInt = Field(16, description="how many validation questions: a seeded subset")


class DistributedConfig(Section):
    world_size: PositiveInt | None = Field(None, description="refuse to run with another number of ranks")
    processes: PositiveInt = Field(1, description="local processes when no launcher set a rank (--nproc)")
    rendezvous_timeout_seconds: PositiveInt = Field(900, description="how long to wait for all ranks to arrive")
    collective_timeout_seconds: PositiveInt = Field(600, description="how long a rank waits for a silent peer")
    stall_timeout_seconds: PositiveInt = Field(
        900, description="without progress for so long (above the one before) a rank prints its stacks and leaves"
    )
    gradient_compression: Literal["none", "bf16"] = Field(
        "none", description="bf16: half the traffic between ranks, and gradients rounded to 8 bits: an approximation"
    )
    grace_seconds: PositiveInt = Field(
        30, description="time between SIGTERM and SIGKILL, in which a checkpoint must be written (Kubernetes: 30)"
    )


class OutputConfig(Section):
    dir: Path = Path("outputs/run")
    if_exists: Literal["resume", "fresh", "fail"] = Field(
        "resume", description="resume: go on from the last committed checkpoint; fresh: start over; fail: refuse"
    )
    log_every_steps: PositiveInt = Field(1, description="how often a line is printed; every step is recorded")
    checkpoint_every_steps: PositiveInt | None = Field(None, description="default: at the end of every epoch")
    checkpoint_every_minutes: PositiveFloat | None = Field(None, description="besides, whenever so much time went by")
    keep_checkpoints: PositiveInt = 2
    demo: bool = Field(True, description="answer the demo questions with the original and the tuned model")
    max_new_tokens: PositiveInt = Field(160, description="length limit of a demo answer")
    track: Trackers = Field(
        [], description="trackers told of the run; MLflow at MLFLOW_TRACKING_URI, Aim in AIM_REPO, or in the run folder"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="port of Prometheus metrics, on all addresses of every rank (plus its local rank)"
    )


class RunConfig(Section):
    """One run. Sections are named by who owns the values."""

    seed: int = 42
    model: ModelConfig = ModelConfig()
    adapt: AdaptConfig = AdaptConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    speed: SpeedConfig = SpeedConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    output: OutputConfig = OutputConfig()
    trl: dict[str, Any] = Field(default_factory=dict, description="any other option of TRL's, passed through")

    def learning_rate_at(self, world_size: int) -> float:
        return self.optim.learning_rate * (world_size if self.optim.scale_learning_rate else 1)

    @property
    def micro_batch_rows(self) -> int:
        """Rows per device and micro-batch, of a configuration whose batch size is a number (see `settled`)."""
        assert self.optim.batch_size != "auto", "settled first"
        return self.optim.batch_size

    def effective_batch_size(self, world_size: int) -> int:
        """Rows per optimizer step, over all ranks."""
        optim = self.optim
        return optim.effective_batch_size or self.micro_batch_rows * optim.accumulation_steps * world_size

    def rows_per_rank(self, world_size: int) -> int:
        """Rows of an optimizer step on each rank (ConfigError where the ranks cannot share a step evenly)."""
        rows, rest = divmod(self.effective_batch_size(world_size), world_size)
        if rest:
            raise ConfigError(
                f"optim.effective_batch_size={self.optim.effective_batch_size} cannot be shared by {world_size} ranks",
                f"Make it a multiple of {world_size}.",
            )
        return rows

    def settled(self, world_size: int) -> "RunConfig":
        """With batch size and accumulation as numbers that make up the effective batch.

        An automatic batch size counts as `FIRST_GUESS_ROWS`, or the next smaller divisor, until it is measured.

        Raises:
            ConfigError: the effective batch is not a whole number of micro-batches on each rank.
        """
        if self.optim.effective_batch_size is None:
            return self
        rows = self.rows_per_rank(world_size)
        first_guess = max(n for n in range(1, FIRST_GUESS_ROWS + 1) if rows % n == 0)
        batch_size = first_guess if self.optim.batch_size == "auto" else self.optim.batch_size
        if rows % batch_size:
            raise ConfigError(
                f"optim.effective_batch_size={self.optim.effective_batch_size} is {rows} rows on each of {world_size} "
                f"rank(s), which is no multiple of optim.batch_size={batch_size}",
                "Set optim.batch_size to a divisor, or to auto.",
            )
        return self.with_batch_size(batch_size, rows // batch_size)

    def with_batch_size(self, batch_size: int, accumulation_steps: int) -> "RunConfig":
        sizes = {"batch_size": batch_size, "accumulation_steps": accumulation_steps}
        return self.model_copy(update={"optim": self.optim.model_copy(update=sizes)})

    def data_file(self, relative: Path) -> Path:
        """A file of the `data` section: under `data.dir`, else under the repository's own data folder."""
        own = REPOSITORY / "data" / relative
        in_data_dir = self.data.dir / relative
        return own if not in_data_dir.exists() and own.exists() else in_data_dir

    def deciding_fields(self) -> dict[str, Any]:
        """Dotted names and values of what decides the trained weights: not where output goes, nor how ranks meet."""
        how_ranks_meet = set(DistributedConfig.model_fields) - {"gradient_compression"}
        sections = self.model_dump(
            mode="json", exclude={"output": True, "distributed": how_ranks_meet, "data": {"dir"}}
        )
        return {
            (f"{section}.{name}" if name else section): value
            for section, content in sections.items()
            for name, value in (content.items() if isinstance(content, dict) else [("", content)])
        }


@dataclass(frozen=True)
class ResolvedConfig:
    """A RunConfig and, for every field that is not a default, where its value came from."""

    config: RunConfig
    sources: Mapping[str, str]
    recipe: str

    def source_of(self, field: str) -> str:
        return self.sources.get(field) or self.sources.get(field.partition(".")[0], "default")

    def dump(self) -> dict[str, Any]:
        """What `config.resolved.json` holds: every field with its value and source."""
        return {
            "recipe": self.recipe,
            "config": self.config.model_dump(mode="json"),
            "sources": {name: self.source_of(name) for name in field_names()},
        }


def field_names() -> list[str]:
    """Every field, dotted, in the order of the classes: `seed`, `model.name`, ..."""
    return [
        dotted
        for section, info in RunConfig.model_fields.items()
        for dotted in (
            [f"{section}.{name}" for name in info.annotation.model_fields]
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
            else [section]
        )
    ]


def resolve_config(
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> ResolvedConfig:
    """Load a recipe and lay environment and `key=value` overrides over it.

    Raises:
        ConfigError: unknown recipe or key (the nearest known one is named), or a value of the wrong type or range.
    """
    recipe = recipe or environment.get("RECIPE") or DEFAULT_RECIPE
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = recipe_path(recipe)
    for source, values in [
        (f"recipe {path.name}", dict(flatten(load_recipe(path)))),
        ("environment", {ENVIRONMENT[name]: environment[name] for name in ENVIRONMENT if environment.get(name)}),
        ("command line", dict(map(parse_override, overrides))),
    ]:
        for field, value in values.items():
            _set(merged, field, value, source)
            sources[field] = f"{source} {_environment_name(field)}".strip() if source == "environment" else source
    try:
        return ResolvedConfig(RunConfig.model_validate(merged), sources, path.stem)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem, sources) for problem in error.errors())) from None


def _set(merged: dict[str, Any], field: str, value: Any, source: str) -> None:
    """Set a dotted field in nested dictionaries, refusing names that no RunConfig has."""
    parts = field.split(".")
    known = field_names()
    open_ended = parts[0] == "trl" or field.startswith(("model.random_init.", "data.template_variables."))
    if field not in known and not open_ended:
        raise ConfigError(f"unknown key '{field}' ({source})", f"{nearest(field, known)}--dry-run lists all keys.")
    if SECRET_SETTING.search(field):
        raise ConfigError(
            f"'{field}' ({source}) would write a secret into the run folder", "Set it in the environment: HF_TOKEN."
        )
    for part in parts[:-1]:
        merged = merged.setdefault(part, {})
        if not isinstance(merged, dict):
            raise ConfigError(f"'{field}' ({source}) cannot be set: '{part}' is the single value {merged!r}")
    merged[parts[-1]] = value


def _environment_name(field: str) -> str:
    return next(name for name, target in ENVIRONMENT.items() if target == field)


def _explain(problem: Any, sources: Mapping[str, str]) -> str:
    """One pydantic error as 'field: what is wrong (value, source)'."""
    field = ".".join(str(part) for part in problem["loc"][:2])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{field}: {message}, not {problem['input']!r} ({sources.get(field, 'default')})"
