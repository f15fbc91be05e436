"""The run as one noun: what was asked for, where it is written, who takes part, and what is trained on.

`train.run` builds it once, when the ranks have agreed and the batch size is known, and hands it on whole.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.batching.tokenise import TrainingData
from train.config.run_config import ResolvedConfig, RunConfig
from train.distributed.group import Ranks
from train.failure import Phases
from train.run_folder.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Run:
    """The facts of one run that do not change while it lasts."""

    resolved: ResolvedConfig
    """The configuration, settled: every size is a number."""

    folder: RunFolder
    ranks: Ranks
    tokenizer: "PreTrainedTokenizerBase"
    data: TrainingData
    identity: dict[str, Any]
    """What a resumed run, and every rank, must have in common with this one; flat."""

    phases: Phases

    @property
    def config(self) -> RunConfig:
        """The settled configuration."""
        return self.resolved.config

    @property
    def world_size(self) -> int:
        """How many ranks train together."""
        return self.ranks.topology.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes and speaks."""
        return self.ranks.topology.is_main

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimizer step, over all ranks."""
        return self.config.effective_batch_size(self.world_size)
