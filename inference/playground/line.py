"""The line in front of one model: first come, first served, and not too long. Lives in one event loop."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


class LineFullError(Exception):
    """As many requests wait as may wait."""


@dataclass(frozen=True, eq=False)
class Ticket:
    """A ticket is a place in the line."""

    moved: asyncio.Event = field(default_factory=asyncio.Event)


class Line:
    """At most one ticket is served, at most `max_waiting` wait."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def join(self) -> Ticket:
        """Take a place at the end (LineFullError if there is none). Whoever takes one must `leave`."""
        if len(self._tickets) > self.max_waiting:
            raise LineFullError
        ticket = Ticket()
        self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a place back, whether it was served or not, and tell those behind."""
        self._tickets.remove(ticket)
        for other in self._tickets:
            other.moved.set()

    async def places(self, ticket: Ticket) -> AsyncIterator[int]:
        """Yield how many are before this ticket, whenever that changes; it ends when none is."""
        while True:
            ticket.moved.clear()  # before looking, so that no move is missed
            if not (before := self._tickets.index(ticket)):
                return
            yield before
            await ticket.moved.wait()
