import random

import numpy as np

from data import spill
from data.schema import Example, Message
from data.spill import SpilledRows, SpillWriter

CHAT = (Message("user", "q0"), Message("assistant", "So."))


def test_rows_come_back_by_number_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "ROWS_PER_BATCH", 7)
    examples = [Example(f"q{n}", "So.", "Knots" if n % 2 else None, () if n else CHAT) for n in range(40)]
    writer = SpillWriter(tmp_path / "rows.arrow")
    for start in range(0, 40, 7):
        batch = examples[start : start + 7]
        writer.add([f"rows.jsonl:{start + n + 1}" for n in range(len(batch))], batch)
    writer.close()

    rows = SpilledRows(tmp_path / "rows.arrow")
    assert len(rows) == 40
    assert list(rows) == examples
    assert (rows.example(9), rows.place(9)) == (examples[9], "rows.jsonl:10")
    assert rows.has_any("messages")
    order = random.Random(1).sample(range(40), 25)
    taken = rows.take(np.array(order)).column("full-question").to_pylist()
    assert taken == [f"q{n}" for n in order]
