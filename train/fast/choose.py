"""Which exact faster paths this run takes, why not the others, and the proof on one batch before step 1."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.render import RenderedRow
from train.batching.tokenise import TrainingData
from train.config.run_config import RunConfig
from train.distributed.group import Ranks
from train.failure import ConfigError, ModelError
from train.fast import activation_cache
from train.fast import prefix_tree as prefix_sharing
from train.fast import when_exact as sharing_refusals
from train.fast.activation_cache import ActivationCache
from train.fast.frozen_layers import first_trained_layer, without_trunk
from train.fast.label_loss import has_plain_logits, score_batch
from train.fast.prefix_tree import PrefixSharingCollator
from train.fast.tree_attention import TREE_ATTENTION, takes_tree_attention
from train.model.adapt import transformer_layers
from train.model.base import attention_by

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from train.batching.row_dataset import Batch, Collator

TREES = PrefixSharingCollator(pad_to_multiple_of=64)
"""Few different shapes: oneDNN keeps compiled kernels for each shape it has seen, which grew a run by gigabytes."""

FLEX_TREES = PrefixSharingCollator(pad_to_multiple_of=prefix_sharing.FLEX_BLOCK_TOKENS, dense_mask=False)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of one batch's summed loss between the plain path and a faster one."""

PROOF_ROWS = 4
"""Rows of the batch that is run both ways: enough to share and to branch, few enough to cost seconds on a CPU."""


@dataclass(frozen=True)
class CachedStatesCollator:
    """A prefix tree that brings along the states of the frozen lower layers."""

    cache: ActivationCache
    trees: PrefixSharingCollator = TREES

    def __call__(self, examples: list[dict[str, Any]]) -> "Batch":
        batch, owners = self.trees.with_owners(examples)
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
    attention: str | None = None
    """The implementation its batches need, where it is not the one the model was loaded with."""

    def scoring(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """The context in which the whole model scores batches of this path."""
        return nullcontext() if self.attention is None else attention_by(model, self.attention)

    @contextmanager
    def training(self, model: PreTrainedModel) -> Iterator[None]:
        """The context to train in: with a cache, the model goes without the layers that the cache stands for."""
        with self.scoring(model), without_trunk(model) if self.cache else nullcontext():
            yield

    def by_flex_attention(self) -> "Path":
        """The same trees with a mask of blocks instead of one of tokens."""
        collator = CachedStatesCollator(self.cache, FLEX_TREES) if self.cache else FLEX_TREES
        report = [*self.report, f"           flex_attention, blocks of {prefix_sharing.FLEX_BLOCK_TOKENS} tokens"]
        return replace(self, collator=collator, report=report, attention="flex_attention")


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
    refused = refusals(config, model, model.config._attn_implementation, rows)
    for name, reason in refused.items():
        if reason and getattr(config.speed, name) == "on":
            raise ConfigError(f"speed.{name}=on is not possible here: {reason}", f"Set speed.{name}=auto.")
    fast = _fast_path(config, model, data, rows, refused, model_fingerprint, ranks)
    if fast is None:
        return Path(plain.collator, [f"speed      plain: {refused['prefix_sharing']}"])
    rows_of_proof = data.train.rows[: min(PROOF_ROWS, config.optim.batch_size)]
    if model.device.type == "cuda" and config.model.attention == "auto":
        fast = _flex_attention_if_it_runs(model, fast, rows_of_proof, ranks)
    drift = _drift(model, plain, fast, rows_of_proof)
    if ranks.all_true(drift <= TOLERANCE[model.dtype]):
        return replace(
            fast, report=[*fast.report, f"           loss of one batch within {drift:.0e} of the plain path"]
        )
    problem = f"the faster path's loss of one batch differs from the plain path's by {drift:.1e} (relative)"
    if "on" in (config.speed.prefix_sharing, config.speed.activation_cache):
        raise ModelError(problem, "Set speed.prefix_sharing=off and speed.activation_cache=off.")
    return Path(plain.collator, [f"speed      plain: WARNING, {problem}"])


def refusals(
    config: RunConfig, model: PreTrainedModel, attention: str | None, rows: Sequence[RenderedRow]
) -> dict[str, str | None]:
    """Why this run cannot take the paths that `speed` names, None for one it can; weights are not looked at."""
    sharing = _refuse_sharing(config, model, attention, rows)
    return {"prefix_sharing": sharing, "activation_cache": _refuse_caching(config, model, sharing)}


def _refuse_sharing(
    config: RunConfig, model: PreTrainedModel, attention: str | None, rows: Sequence[RenderedRow]
) -> str | None:
    if config.speed.prefix_sharing == "off":
        return "speed.prefix_sharing=off"
    if not has_plain_logits(model):
        return "this architecture transforms its logits"
    longest_row_tokens = max(len(row.input_ids) for row in rows)
    return sharing_refusals.refusal(model.config, attention, longest_row_tokens=longest_row_tokens)


def _refuse_caching(config: RunConfig, model: PreTrainedModel, sharing: str | None) -> str | None:
    if config.speed.activation_cache == "off":
        return "speed.activation_cache=off"
    if sharing:
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
    attention = TREE_ATTENTION if takes_tree_attention(model) else None
    if refused["activation_cache"]:
        return Path(
            TREES, [*report, f"           no activation cache: {refused['activation_cache']}"], attention=attention
        )
    cache, was_there = activation_cache.open_or_build(model, rows, model_fingerprint, ranks)
    num_layers, cut = len(transformer_layers(model)), first_trained_layer(model)
    state = "found" if was_there else "computed"
    report.append(
        f"           activation cache: {cut} of {num_layers} layers {state} for {cache.layout.num_tokens:,} tokens "
        f"in {cache.folder}"
    )
    return Path(CachedStatesCollator(cache), report, cache, attention)


def _flex_attention_if_it_runs(model: PreTrainedModel, path: Path, rows: Sequence[RenderedRow], ranks: Ranks) -> Path:
    """`path` by flex_attention, if its kernels compile and run here on every rank, forward and backward."""
    flexible, problem = path.by_flex_attention(), ""
    try:
        with flexible.scoring(model):  # the backward pass too: layers may be computed again in it
            _summed_loss(model, flexible, rows).backward()
    except Exception as error:  # a compiler's, a driver's, anyone's: the same path runs without these kernels
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    model.zero_grad()
    if ranks.all_true(not problem):
        return flexible
    warning = (
        f"           WARNING, flex_attention does not run here ({problem or 'on another rank'}); dense masks instead"
    )
    return replace(path, report=[*path.report, warning])


@torch.no_grad()
def _drift(model: PreTrainedModel, plain: Path, fast: Path, rows: Sequence[RenderedRow]) -> float:
    """Relative difference of the summed loss of one batch between two paths, both through the whole model."""
    expected, got = (_summed_loss(model, path, rows).item() for path in (plain, fast))
    return abs(got - expected) / abs(expected)


def _summed_loss(model: PreTrainedModel, path: Path, rows: Sequence[RenderedRow]) -> torch.Tensor:
    examples = [{"input_ids": row.input_ids, "labels": row.labels, "number": number} for number, row in enumerate(rows)]
    batch = {name: value.to(model.device) for name, value in path.collator(examples).items()}
    in_bf16 = model.dtype == torch.bfloat16
    with path.scoring(model), torch.autocast(model.device.type, torch.bfloat16, enabled=in_bf16):
        return score_batch(model.eval(), batch).summed_loss
