"""Where the frozen layers' states of many rows lie in one file: what all rows begin with once, then each row's own.

No torch here: the planner counts with it too.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from data.render import num_equal

TRUNK_BATCH_TOKENS = 4096
"""Tokens that pass through the frozen layers at a time while their states are computed."""


@dataclass(frozen=True)
class Layout:
    """Where each row's states lie in the file: first the shared prefix, then every row's own tokens, in order.

    >>> layout = Layout.of([[1, 2, 3], [1, 2, 4, 5]])
    >>> layout.prefix_tokens, layout.offsets
    (2, (2, 3, 5))
    """

    prefix_tokens: int
    offsets: tuple[int, ...]
    """Start of each row's own tokens; one more than there are rows, the last being the total number of tokens."""

    @classmethod
    def of(cls, rows: Sequence[list[int]]) -> "Layout":
        first, last = min(rows), max(rows)  # what these two share, all share
        # Every row keeps at least its last token as its own, so that no row is empty.
        prefix_tokens = min(num_equal(first, last), min(map(len, rows)) - 1)
        offsets = [prefix_tokens]
        for row in rows:
            offsets.append(offsets[-1] + len(row) - prefix_tokens)
        return cls(prefix_tokens, tuple(offsets))

    @property
    def num_tokens(self) -> int:
        return self.offsets[-1]

    def index(self, row: int, depth: int) -> int:
        """Place of the state of token `depth` of row `row`."""
        return depth if depth < self.prefix_tokens else self.offsets[row] + depth - self.prefix_tokens

    def shares(self, num_ranks: int) -> list[range]:
        """Rows for each rank to compute: contiguous, with about equally many tokens.

        >>> Layout.of([[1, 2], [1, 3], [1, 4], [1, 5]]).shares(2)
        [range(0, 2), range(2, 4)]
        """
        own = self.num_tokens - self.prefix_tokens
        bounds, row = [0], 0
        for rank in range(1, num_ranks):
            while self.offsets[row] - self.prefix_tokens < own * rank / num_ranks:
                row += 1
            bounds.append(row)
        bounds.append(len(self.offsets) - 1)
        return [range(start, end) for start, end in itertools.pairwise(bounds)]
