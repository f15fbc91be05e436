"""Small rows for tests of prefix trees, and batches of them as TRL's trainers make them."""

import torch
from hypothesis import strategies as st
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.render import IGNORE_INDEX, RenderedRow

NO = IGNORE_INDEX


def row(ids, labelled_from=0):
    """A row whose tokens from index `labelled_from` on are trained."""
    return RenderedRow(list(ids), [NO] * labelled_from + list(ids[labelled_from:]))


# Few different ids, so that rows share beginnings, repeat each other and are prefixes of each other.
FORESTS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([True, True, True, False])), min_size=1, max_size=8).map(
        lambda tokens: RenderedRow([i for i, _ in tokens], [i if trained else NO for i, trained in tokens])
    ),
    min_size=1,
    max_size=7,
)


def random_rows(num_rows, num_ids, max_tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, max_tokens + 1, (num_rows,), generator=generator).tolist()
    return [row(torch.randint(num_ids, (length,), generator=generator).tolist()) for length in lengths]


def padded(rows):
    """The batch that TRL's collator makes of rows: `input_ids`, `attention_mask` and `labels`, each [B, T]."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    return collate([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])
