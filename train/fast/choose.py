"""Which exact faster path this run takes, why not another, and the proof on one batch before step 1."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.render import RenderedRow
from train.batching.row_dataset import RowDataset
from train.batching.tokenise import TrainingData
from train.config.run_config import RunConfig
from train.distributed.group import Ranks
from train.failure import ConfigError, ModelError
from train.fast import activation_cache, prefix_tree, when_exact
from train.fast.frozen_layers import first_trained_layer, trunk_dtype, without_trunk
from train.fast.fused_head import Forward, TreeForward, plain_forward, summed_loss
from train.fast.tree_attention import TREE_ATTENTION, takes_tree_attention
from train.fast.tree_batch import FLEX_BLOCK_TOKENS, TreeBatch
from train.fast.when_exact import PathName
from train.model.adapt import transformer_layers
from train.model.base import attention_by
from train.run_context import Run

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of one batch's summed loss between the plain path and a faster one."""

PROOF_ROWS = 4
"""Rows of the batch that is run both ways: enough to share and to branch, few enough to cost seconds on a CPU."""


@dataclass(frozen=True)
class ChosenPath:
    """How the forward passes of a run are computed, and what to say about it."""

    name: PathName
    forward: Forward | None
    """None: TRL's own, for models whose logits are more than `head(hidden)`."""

    report: list[str]
    attention: str | None = None
    """The implementation its batches need, where it is not the one the model was loaded with."""

    def scoring(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """The context in which the whole model scores batches of this path."""
        return nullcontext() if self.attention is None else attention_by(model, self.attention)

    @contextmanager
    def training(self, model: PreTrainedModel) -> Iterator[None]:
        """The context to train in: with a cache, the model goes without the layers that the cache stands for."""
        with self.scoring(model), without_trunk(model) if self.name == "sharing + cache" else nullcontext():
            yield

    def reporting(self, *lines: str) -> "ChosenPath":
        """The same path with more to say."""
        return replace(self, report=[*self.report, *lines])


def choose_path(run: Run, model: PreTrainedModel) -> ChosenPath:
    """The fastest path that is exact for this run, proved on one batch; every rank takes the same.

    Raises:
        ConfigError: a path that is switched `on` cannot be exact here.
        ModelError: it should be, but its loss differs from the plain path's.
    """
    config, data, ranks = run.config, run.data, run.ranks
    path = exact_path(config, model, data, ranks)
    if path.name == "plain":
        return path
    fast = _with_sharing_reported(config, data, path)
    if path.name == "sharing + cache":
        fast = _with_cache(run, model, fast)
    drift = _drift(model, fast, data.train.rows[: min(PROOF_ROWS, config.micro_batch_rows)])
    if ranks.all_true(drift <= TOLERANCE[model.dtype]):
        return fast.reporting(f"           loss of one batch within {drift:.0e} of the plain path")
    problem = f"the faster path's loss of one batch differs from the plain path's by {drift:.1e} (relative)"
    if "on" in (config.speed.prefix_sharing, config.speed.activation_cache):
        raise ModelError(problem, "Set speed.prefix_sharing=off and speed.activation_cache=off.")
    return ChosenPath("plain", plain_forward, [f"speed      plain: WARNING, {problem}"])


def exact_path(config: RunConfig, model: PreTrainedModel, data: TrainingData, ranks: Ranks) -> ChosenPath:
    """The fastest path that is exact for this run, before anything is computed for it.

    In place of the frozen layers' states it has zeros, which take the same time and memory: enough to measure with.

    Raises:
        ConfigError: a path that is switched `on` cannot be exact here.
    """
    refused = refusals(config, model, model.config._attn_implementation, [*data.train.rows, *data.validation.rows])
    for name, reason in refused.items():
        if reason and getattr(config.speed, name) == "on":
            raise ConfigError(f"speed.{name}=on is not possible here: {reason}", f"Set speed.{name}=auto.")
    if refused["prefix_sharing"]:
        forward = plain_forward if when_exact.has_plain_logits(model.config) else None
        return ChosenPath("plain", forward, [f"speed      plain: {refused['prefix_sharing']}"])
    attention = TREE_ATTENTION if takes_tree_attention(model) else None
    if refused["activation_cache"]:
        report = [f"           no activation cache: {refused['activation_cache']}"]
        path = ChosenPath("prefix sharing", TreeForward(), report, attention)
    else:
        path = ChosenPath("sharing + cache", TreeForward(_zeros_like_states_of(model)), [], attention)
    if model.device.type == "cuda" and config.model.attention == "auto":
        rows = data.train.rows[: min(PROOF_ROWS, config.micro_batch_rows)]
        return _by_flex_attention_if_it_runs(model, path, rows, ranks)
    return path


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
    if not when_exact.has_plain_logits(model.config):
        return "this architecture transforms its logits"
    longest_row_tokens = max(len(row.input_ids) for row in rows)
    return when_exact.refusal(model.config, attention, longest_row_tokens=longest_row_tokens)


def _refuse_caching(config: RunConfig, model: PreTrainedModel, sharing: str | None) -> str | None:
    if config.speed.activation_cache == "off":
        return "speed.activation_cache=off"
    if sharing:
        return f"it needs prefix sharing ({sharing})"
    return activation_cache.refusal(model, config.adapt)


def _zeros_like_states_of(model: PreTrainedModel) -> Callable[[TreeBatch], torch.Tensor]:
    """What stands in for the frozen layers' states while nothing but time and memory counts."""
    hidden_size, dtype = model.config.get_text_config().hidden_size, trunk_dtype(model)

    def zeros(tree: TreeBatch) -> torch.Tensor:
        return torch.zeros(1, tree.input_ids.shape[1], hidden_size, dtype=dtype)

    return zeros


def _with_sharing_reported(config: RunConfig, data: TrainingData, path: ChosenPath) -> ChosenPath:
    batch = data.train.rows[: config.micro_batch_rows]
    plain_tokens, shared_tokens = prefix_tree.saving(batch)
    line = f"speed      prefix sharing: {shared_tokens:,} tokens for {plain_tokens:,} in {len(batch)} rows"
    return replace(path, report=[line, *path.report])


def _with_cache(run: Run, model: PreTrainedModel, path: ChosenPath) -> ChosenPath:
    """`path` with the states that the frozen layers really have, computed now or found."""
    assert isinstance(path.forward, TreeForward)
    rows = [*run.data.train.rows, *run.data.validation.rows]
    cache, was_there = activation_cache.open_or_build(model, rows, run.identity["model"], run.ranks)
    num_layers, cut = len(transformer_layers(model)), first_trained_layer(model)
    line = (
        f"           activation cache: {cut} of {num_layers} layers {'found' if was_there else 'computed'} for "
        f"{cache.layout.num_tokens:,} tokens in {cache.folder}"
    )
    return replace(path, forward=replace(path.forward, frozen_states=cache.of_tree)).reporting(line)


def _by_flex_attention_if_it_runs(
    model: PreTrainedModel, path: ChosenPath, rows: Sequence[RenderedRow], ranks: Ranks
) -> ChosenPath:
    """`path` by flex_attention, if its kernels compile and run here on every rank, forward and backward."""
    assert isinstance(path.forward, TreeForward)
    line = f"           flex_attention, blocks of {FLEX_BLOCK_TOKENS} tokens"
    forward = replace(path.forward, by_flex_attention=True)
    flexible = replace(path, forward=forward, attention="flex_attention").reporting(line)
    problem = ""
    try:
        model.eval()
        with flexible.scoring(model):  # the backward pass too: layers may be computed again in it
            summed_loss_of(model, flexible, rows).backward()
    except Exception as error:  # a compiler's, a driver's, anyone's: the same path runs without these kernels
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    model.zero_grad()
    if ranks.all_true(not problem):
        return flexible
    return path.reporting(
        f"           WARNING, flex_attention does not run here ({problem or 'on another rank'}); dense masks instead"
    )


@torch.no_grad()
def _drift(model: PreTrainedModel, fast: ChosenPath, rows: Sequence[RenderedRow]) -> float:
    """Relative difference of the summed loss of one batch from the plain path's, both through the whole model."""
    plain = ChosenPath("plain", plain_forward, [])
    model.eval()
    expected, got = (summed_loss_of(model, path, rows).item() for path in (plain, fast))
    return abs(got - expected) / abs(expected)


def summed_loss_of(model: PreTrainedModel, path: ChosenPath, rows: Sequence[RenderedRow]) -> torch.Tensor:
    """The summed loss of these rows as one batch, as `path` computes it."""
    forward = path.forward or plain_forward  # TRL's own costs no less
    dataset = RowDataset(rows)
    collated = DataCollatorForLanguageModeling(pad_token_id=0)([dataset[number] for number in range(len(rows))])
    batch = {name: value.to(model.device) for name, value in collated.items()}
    in_bf16 = model.dtype == torch.bfloat16
    with path.scoring(model), torch.autocast(model.device.type, torch.bfloat16, enabled=in_bf16):
        return summed_loss(forward(model, **batch))
