from data.render import RenderedRow
from train.batching.row_dataset import RowDataset


def test_a_rank_without_a_row_gets_one_without_labels():
    rows = RowDataset([RenderedRow([5, 6, 7], [-100, 6, 7])])
    assert rows[-1] == {"input_ids": [5, 6], "labels": [-100, -100]}
    assert rows[0] == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
