"""Which weights are asked: a published model, the base of one, or a model by its name. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inference.models.published import PublishedModel, default_run, is_run, named_base, needs_no_network, open_published
from train.config.run_config import RunConfig

if TYPE_CHECKING:
    from inference.models.load import LoadedModel


@dataclass(frozen=True)
class Source:
    """A source says which weights to ask, and which published model they belong to; one of the two may be missing."""

    published: PublishedModel | None
    base: RunConfig | None

    @property
    def is_offline(self) -> bool:
        """Say whether the hub need not be asked."""
        return self.base is None or needs_no_network(self.base)

    def load(self) -> "LoadedModel":
        """Load the weights, with the published model's tokenizer and prompt where there is one."""
        # Here, since it loads torch, which reads the environment that prepare_environment sets.
        from inference.models.load import load_by_name, load_original, load_tuned

        if self.base is None:
            assert self.published is not None
            return load_tuned(self.published)
        return load_original(self.published, self.base) if self.published else load_by_name(self.base)


def source_of(model: str | None, *, verify: bool) -> Source:
    """Decide what to judge: a published model where the name is that of a folder that should hold one, else a base."""
    if model is not None and not is_run(Path(model)):
        return Source(None, named_base(model))
    return Source(open_published(Path(model) if model else default_run(), verify=verify), None)
