"""Chat messages -> token ids and loss mask. Training and every inference path render through this file alone.

What is trained is found by prefixes: an assistant turn runs from the end of `render(messages before it, generation
prompt)` to the end-of-turn token in `render(messages through it)`. Both must be true prefixes of the whole, so the
model sees at inference exactly the ids it was trained on. A template that rewrites earlier turns is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.tokenizer import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
"""Label of a position the loss leaves out; the value torch's cross-entropy ignores."""


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A rendered row is one conversation as the model trains on it. Both lists have the same length, in tokens."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_label_tokens(self) -> int:
        """Count the tokens that give loss."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    def truncated(self, max_length_tokens: int) -> "RenderedRow":
        """Keep the first `max_length_tokens` tokens.

        >>> RenderedRow([5, 6, 7], [-100, 6, 7]).truncated(2)
        RenderedRow(input_ids=[5, 6], labels=[-100, 6])
        """
        return RenderedRow(self.input_ids[:max_length_tokens], self.labels[:max_length_tokens])


def render_prompt(tokenizer: "PreTrainedTokenizerBase", conversation: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids up to where the assistant's answer begins (template and generation prompt included)."""
    return _token_ids(tokenizer, conversation, add_generation_prompt=True)


def render_training_row(tokenizer: "PreTrainedTokenizerBase", conversation: Sequence[dict[str, str]]) -> RenderedRow:
    """Return the token ids of a conversation, with labels on the assistant's words and their end-of-turn token only.

    For ChatML, where an answer reads `<|im_start|>assistant\\nok<|im_end|>\\n`, the labels are `ok<|im_end|>`.

    Raises:
        TemplateError: the template breaks the prefix rule, or does not end the assistant's turn with the EOS token.
    """
    input_ids = _token_ids(tokenizer, conversation)
    labels = [IGNORE_INDEX] * len(input_ids)
    for turn, message in enumerate(conversation):
        if message["role"] == "assistant":
            start, end = _assistant_span(tokenizer, conversation, turn, input_ids)
            labels[start:end] = input_ids[start:end]
    return RenderedRow(input_ids, labels)


def _assistant_span(
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Sequence[dict[str, str]],
    turn: int,
    input_ids: list[int],
) -> tuple[int, int]:
    """Where assistant turn number `turn` lies in `input_ids`: first token of the answer, one past its EOS token."""
    prompt = render_prompt(tokenizer, conversation[:turn])
    through = _token_ids(tokenizer, conversation[: turn + 1])
    if through[: len(prompt)] != prompt or input_ids[: len(through)] != through:
        raise TemplateError(
            f"the chat template breaks the prefix rule at message {turn}: what comes before an answer is rendered "
            "differently once the answer is there, so training and inference would see different token ids"
        )
    # From the end: what a template writes after the EOS token, such as a line break, is not the answer's.
    for position in range(len(through) - 1, len(prompt) - 1, -1):
        if through[position] == tokenizer.eos_token_id:
            return len(prompt), position + 1
    raise TemplateError(
        f"the chat template does not end an assistant turn with the EOS token {tokenizer.eos_token!r}: "
        "the model would never learn to stop"
    )


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a template that cannot render two rounds of conversation by the prefix rule (raises TemplateError)."""
    render_training_row(
        tokenizer,
        [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "Is water wet?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Is fire?"},
            {"role": "assistant", "content": "No."},
        ],
    )


def num_equal(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Count the leading tokens in which two sequences agree; where one begins the other, that is its length.

    >>> num_equal([5, 6, 7], [5, 6, 8, 9]), num_equal([5, 6], [5, 6, 8])
    (2, 2)
    """
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ours), len(theirs)))


def _token_ids(
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Sequence[dict[str, str]],
    add_generation_prompt: bool = False,
) -> list[int]:
    # Without return_dict=False transformers 5 returns a BatchEncoding, not token ids.
    rendered: list[int] = tokenizer.apply_chat_template(
        list(conversation), tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
    )
    return rendered
