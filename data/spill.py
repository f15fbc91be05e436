"""Checked rows parked in a temporary Arrow file, so that a build never holds all its rows in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.dataset import DATASET_SCHEMA, to_batch
from data.schema import ANSWER_COLUMN, MESSAGES_COLUMN, QUESTION_COLUMN, TOPIC_COLUMN, Example, Message

ROWS_PER_BATCH = 8192
_PLACE_COLUMN = "place"


class SpillWriter:
    """A writer takes batches of ROWS_PER_BATCH rows; only the last one may be shorter."""

    def __init__(self, path: Path) -> None:
        schema = DATASET_SCHEMA.append(pa.field(_PLACE_COLUMN, pa.string()))
        self._writer = pa.ipc.new_file(path, schema)

    def add(self, places: Sequence[str], examples: Sequence[Example]) -> None:
        """Append rows with the places they came from, each as file:line."""
        self._writer.write_batch(to_batch(examples).append_column(_PLACE_COLUMN, pa.array(places)))

    def close(self) -> None:
        """Finish the file, which can be read from then on."""
        self._writer.close()


class SpilledRows:
    """The rows of a closed spill are had by number. The file is mapped, not read."""

    def __init__(self, path: Path) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(index) for index in range(file.num_record_batches)]

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def __iter__(self) -> Iterator[Example]:
        for batch in self._batches:
            yield from map(_to_example, batch.select(DATASET_SCHEMA.names).to_pylist())

    def place(self, row: int) -> str:
        """Return where a row came from, as file:line."""
        return str(self._value(_PLACE_COLUMN, row))

    def example(self, row: int) -> Example:
        """Return one row."""
        return _to_example({column: self._value(column, row) for column in DATASET_SCHEMA.names})

    def has_any(self, column: str) -> bool:
        """Say whether some row has a value in this column."""
        return any(batch.column(column).null_count < len(batch) for batch in self._batches)

    def take(self, rows: NDArray[np.int64]) -> pa.RecordBatch:
        """Return the given rows in the given order, with the columns of DATASET_SCHEMA."""
        # A take for each batch, then one that puts all rows into the order asked for.
        batches, rows_in_batch = np.divmod(rows, ROWS_PER_BATCH)
        by_batch = np.argsort(batches, kind="stable")
        parts = [self._batches[batch].take(rows_in_batch[batches == batch]) for batch in np.unique(batches)]
        return pa.concat_batches(parts).take(np.argsort(by_batch)).select(DATASET_SCHEMA.names)

    def _value(self, column: str, row: int) -> Any:  # of the type that DATASET_SCHEMA gives the column
        batch, row_in_batch = divmod(row, ROWS_PER_BATCH)
        return self._batches[batch].column(column)[row_in_batch].as_py()


def _to_example(row: dict[str, Any]) -> Example:
    messages = tuple(Message(**message) for message in row[MESSAGES_COLUMN] or ())
    return Example(row[QUESTION_COLUMN], row[ANSWER_COLUMN], row[TOPIC_COLUMN], messages)
