"""Rows by number, as a DataLoader asks for them."""

from collections.abc import Sequence
from typing import Any

import torch

from data.render import IGNORE_INDEX, RenderedRow
from train.batching.batches import NO_ROW


class RowDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Gives rows by number; `NO_ROW` is a row without labels, for a rank that has no row in a step."""

    def __init__(self, rows: Sequence[RenderedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == NO_ROW:
            ids = self.rows[0].input_ids[:2]  # of a single token nothing is left once labels are shifted by one
            return {"input_ids": ids, "labels": [IGNORE_INDEX] * len(ids)}
        row = self.rows[index]
        return {"input_ids": row.input_ids, "labels": row.labels}
