"""Which exact faster paths this run takes, why not the others, and the proof on one batch before step 1."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.render import RenderedRow
from train import activation_cache, prefix_sharing
from train.activation_cache import ActivationCache, first_trained_layer
from train.adapt import transformer_layers
from train.config import RunConfig
from train.distributed import Ranks
from train.failure import ConfigError, ModelError
from train.label_loss import has_plain_logits, score_batch
from train.prefix_sharing import PrefixSharingCollator
from train.tokens import TrainingData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from train.sft import Batch, Collator

TREES = PrefixSharingCollator(pad_to_multiple_of=64)
"""Few different shapes: oneDNN keeps compiled kernels for each shape it has seen, which grew a run by gigabytes."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of one batch's summed loss between the plain path and a faster one."""

PROOF_ROWS = 4
"""Rows of the batch that is run both ways: enough to share and to branch, few enough to cost seconds on a CPU."""


@dataclass(frozen=True)
class CachedStatesCollator:
    """A prefix tree that brings along the states of the frozen lower layers."""

    cache: ActivationCache

    def __call__(self, examples: list[dict[str, Any]]) -> "Batch":
        batch, owners = TREES.with_owners(examples)
        numbers = [examples[owner]["number"] for owner in owners]
        num_padding = batch["input_ids"].shape[1] - len(owners)
        states = self.cache.gather(numbers, batch["position_ids"][0, : len(owners)].tolist())
        return {**batch, "trunk_states": functional.pad(states, (0, 0, 0, num_padding))[None]}


@dataclass(frozen=True)
class Path:
    """How a run's batches are made, and what to say about it."""

    collator: "Collator"
    report: list[str]
    cache: ActivationCache | None = None

    def training(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """The context to train in: with a cache, the model goes without the layers that the cache stands for."""
        return activation_cache.without_trunk(model) if self.cache else nullcontext()


def choose_path(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    data: TrainingData,
    model_fingerprint: str,
    ranks: Ranks,
) -> Path:
    """The fastest path that is exact for this run, proved on one batch; every rank takes the same.

    Raises:
        ConfigError: a path that is switched `on` cannot be exact here.
        ModelError: it should be, but its loss differs from the plain path's.
    """
    plain = Path(DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id), [])
    rows = [*data.train.rows, *data.validation.rows]
    refused = {
        "prefix_sharing": _refuse_sharing(config, model, rows),
        "activation_cache": _refuse_caching(config, model, rows),
    }
    for name, reason in refused.items():
        if reason and getattr(config.speed, name) == "on":
            raise ConfigError(f"speed.{name}=on is not possible here: {reason}", f"Set speed.{name}=auto.")
    fast = _fast_path(config, model, data, rows, refused, model_fingerprint, ranks)
    if fast is None:
        return Path(plain.collator, [f"speed      plain: {refused['prefix_sharing']}"])
    drift = _drift(config, model, plain, fast, data.train.rows)
    if ranks.all_true(drift <= TOLERANCE[model.dtype]):
        return Path(
            fast.collator,
            [*fast.report, f"           loss of one batch within {drift:.0e} of the plain path"],
            fast.cache,
        )
    problem = f"the faster path's loss of one batch differs from the plain path's by {drift:.1e} (relative)"
    if "on" in (config.speed.prefix_sharing, config.speed.activation_cache):
        raise ModelError(problem, "Set speed.prefix_sharing=off and speed.activation_cache=off.")
    return Path(plain.collator, [f"speed      plain: WARNING, {problem}"])


def _refuse_sharing(config: RunConfig, model: PreTrainedModel, rows: Sequence[RenderedRow]) -> str | None:
    if config.speed.prefix_sharing == "off":
        return "prefix sharing is switched off"
    if not has_plain_logits(model):
        return "this architecture transforms its logits"
    longest_row_tokens = max(len(row.input_ids) for row in rows)
    return prefix_sharing.refusal(
        model.config, model.config._attn_implementation, longest_row_tokens=longest_row_tokens
    )


def _refuse_caching(config: RunConfig, model: PreTrainedModel, rows: Sequence[RenderedRow]) -> str | None:
    if config.speed.activation_cache == "off":
        return "the activation cache is switched off"
    if sharing := _refuse_sharing(config, model, rows):
        return f"it needs prefix sharing ({sharing})"
    return activation_cache.refusal(model, config.adapt)


def _fast_path(
    config: RunConfig,
    model: PreTrainedModel,
    data: TrainingData,
    rows: Sequence[RenderedRow],
    refused: dict[str, str | None],
    model_fingerprint: str,
    ranks: Ranks,
) -> Path | None:
    if refused["prefix_sharing"]:
        return None
    batch = data.train.rows[: config.optim.batch_size]
    plain_tokens, shared_tokens = prefix_sharing.saving(batch)
    report = [f"speed      prefix sharing: {shared_tokens:,} tokens for {plain_tokens:,} in {len(batch)} rows"]
    if refused["activation_cache"]:
        return Path(TREES, [*report, f"           no activation cache: {refused['activation_cache']}"])
    cache, was_there = activation_cache.open_or_build(model, rows, model_fingerprint, ranks)
    num_layers, cut = len(transformer_layers(model)), first_trained_layer(model)
    state = "found" if was_there else "computed"
    report.append(
        f"           activation cache: {cut} of {num_layers} layers {state} for {cache.layout.num_tokens:,} tokens "
        f"in {cache.folder}"
    )
    return Path(CachedStatesCollator(cache), report, cache)


@torch.no_grad()
def _drift(config: RunConfig, model: PreTrainedModel, plain: Path, fast: Path, rows: Sequence[RenderedRow]) -> float:
    """Relative difference of the summed loss of one batch between two paths, both through the whole model."""
    examples = [
        {"input_ids": row.input_ids, "labels": row.labels, "number": number}
        for number, row in enumerate(rows[: min(PROOF_ROWS, config.optim.batch_size)])
    ]
    losses: list[float] = []
    for path in (plain, fast):
        batch = {name: value.to(model.device) for name, value in path.collator(examples).items()}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            losses.append(score_batch(model.eval(), batch).summed_loss.item())
    return abs(losses[1] - losses[0]) / abs(losses[0])
