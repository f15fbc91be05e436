"""Rows by number, as a DataLoader asks for them, and what a batch of them is."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from data.render import IGNORE_INDEX, RenderedRow
from train.batching.batches import NO_ROW

Batch = dict[str, torch.Tensor]
Collator = Callable[[list[dict[str, Any]]], Batch]


class RowDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows by number; `NO_ROW` is a row without labels, for a rank that has no row in a step.

    `number` counts a run's rows from `first_number`: by it the activation cache knows a row.
    """

    def __init__(self, rows: Sequence[RenderedRow], first_number: int = 0) -> None:
        self.rows, self.first_number = rows, first_number

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == NO_ROW:
            ids = self.rows[0].input_ids[:2]
            return {"input_ids": ids, "labels": [IGNORE_INDEX] * len(ids), "number": self.first_number}
        row = self.rows[index]
        return {"input_ids": row.input_ids, "labels": row.labels, "number": self.first_number + index}
