"""What a method is called where people read of it. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """The words of one method for a model card."""

    sentence: str
    tags: tuple[str, ...]
    """As the hub knows them."""


SFT = Description("supervised fine-tuning (TRL SFTTrainer), loss on the answers alone", ("sft",))
