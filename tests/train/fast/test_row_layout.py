"""Every token of every row has a place of its own, what all rows begin with one for all."""

from hypothesis import given
from hypothesis import strategies as st

from train.fast.row_layout import Layout


@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_layout_has_a_place_of_its_own_for_every_token(rows):
    layout = Layout.of(rows)
    places = [[layout.index(number, depth) for depth in range(len(row))] for number, row in enumerate(rows)]
    assert {place for row in places for place in row} == set(range(layout.num_tokens))
    for number, row in enumerate(rows):
        assert row[: layout.prefix_tokens] == rows[0][: layout.prefix_tokens]
        own = places[number][layout.prefix_tokens :]
        assert own == list(range(layout.offsets[number], layout.offsets[number + 1]))


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8), ranks=st.integers(1, 4)
)
def test_shares_cover_every_row_once(rows, ranks):
    shares = Layout.of(rows).shares(ranks)
    assert len(shares) == ranks
    assert [row for share in shares for row in share] == list(range(len(rows)))
