"""Labels are exactly the answers, and training and inference render the same ids, for three kinds of template."""

import datetime

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.render import IGNORE_INDEX, check_template, num_equal, render_prompt, render_training_row
from data.tokenizer import TemplateError, freeze_chat_template, load_chat_tokenizer
from tests.data.templates import CHATML, CONVERSATION, LLAMA3_STYLE, TEMPLATES


@pytest.fixture(scope="module")
def embedded():
    return load_chat_tokenizer()


@pytest.fixture(scope="module")
def llama3():
    """A small tokenizer with Llama 3's way of splitting: line breaks stay whole, whatever follows them."""
    backend = Tokenizer(models.BPE())
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((message["content"] for message in CONVERSATION), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[3])


@pytest.fixture(params=TEMPLATES)
def tokenizer(request, embedded, llama3, monkeypatch):
    tokenizer = llama3 if request.param == "llama3" else embedded
    frozen = freeze_chat_template(TEMPLATES[request.param], datetime.date(2025, 7, 1), {"enable_thinking": False})
    monkeypatch.setattr(tokenizer, "chat_template", frozen)
    return tokenizer


def test_a_tokenizer_that_merges_across_the_turn_is_refused(embedded, monkeypatch):
    """GPT-2's splitting turns a final double line break into other tokens once text follows it."""
    frozen = freeze_chat_template(LLAMA3_STYLE, datetime.date(2025, 7, 1), {})
    monkeypatch.setattr(embedded, "chat_template", frozen)
    with pytest.raises(TemplateError, match="prefix rule"):
        check_template(embedded)


def label_runs(row):
    """The stretches of trained tokens, in order."""
    runs, current = [], []
    for label in [*row.labels, IGNORE_INDEX]:
        if label != IGNORE_INDEX:
            current.append(label)
        elif current:
            runs.append(current)
            current = []
    return runs


def test_labels_decode_to_exactly_the_answers(tokenizer):
    runs = label_runs(render_training_row(tokenizer, CONVERSATION))
    assert [tokenizer.decode(run, skip_special_tokens=True) for run in runs] == [
        message["content"] for message in CONVERSATION if message["role"] == "assistant"
    ]
    assert all(run[-1] == tokenizer.eos_token_id for run in runs)


@pytest.mark.parametrize("answers", [1, 2])
def test_inference_sees_the_ids_that_training_saw(tokenizer, answers):
    conversation = CONVERSATION[: 1 + 2 * answers]
    row = render_training_row(tokenizer, conversation)
    prompt = render_prompt(tokenizer, conversation[:-1])
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[len(prompt)] == row.input_ids[len(prompt)]  # the first generated token is the first trained one
    assert row.labels[len(prompt) - 1] == IGNORE_INDEX


def test_a_saved_tokenizer_renders_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert render_prompt(reloaded, CONVERSATION[:2]) == render_prompt(tokenizer, CONVERSATION[:2])


def test_a_template_that_rewrites_earlier_turns_is_refused(embedded, monkeypatch):
    forgets = CHATML.replace("+ m.content +", "+ (m.content if loop.last else 'cut') +")
    monkeypatch.setattr(embedded, "chat_template", forgets)
    with pytest.raises(TemplateError, match="prefix rule"):
        check_template(embedded)


def test_a_template_without_end_of_turn_is_refused(embedded, monkeypatch):
    monkeypatch.setattr(
        embedded, "chat_template", "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="never learn to stop"):
        check_template(embedded)


def test_padding_with_eos_leaves_the_real_eos_trained(embedded):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    assert embedded.pad_token_id == embedded.eos_token_id
    rows = [render_training_row(embedded, CONVERSATION[:3]), render_training_row(embedded, CONVERSATION)]
    batch = DataCollatorForLanguageModeling(pad_token_id=embedded.pad_token_id)(
        [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
    )
    trained = batch["input_ids"][0][batch["labels"][0] != IGNORE_INDEX]
    assert trained[-1] == embedded.eos_token_id
    assert (batch["labels"][0] != IGNORE_INDEX).sum() == rows[0].num_label_tokens


def test_equal_tokens_of_answers_of_unequal_length():
    assert num_equal([1, 2], [1, 2, 3]) == 2
    assert num_equal([], [1]) == 0
