"""The line in front of a model: first come, first served, bounded, and left from anywhere."""

import asyncio

import pytest

from inference.playground.line import Line, LineFullError


def test_line_serves_in_order_and_is_bounded():
    async def scenario():
        line = Line(max_waiting=1)
        first, second = line.join(), line.join()
        with pytest.raises(LineFullError):
            line.join()
        assert [before async for before in line.places(first)] == []
        places = line.places(second)
        assert await anext(places) == 1
        line.leave(first)  # between two looks
        with pytest.raises(StopAsyncIteration):
            await anext(places)
        line.leave(second)
        assert len(line) == 0

    asyncio.run(scenario())


def test_whoever_leaves_from_the_middle_moves_those_behind():
    async def scenario():
        line = Line(max_waiting=2)
        _, second, third = line.join(), line.join(), line.join()
        places = line.places(third)
        assert await anext(places) == 2
        line.leave(second)
        assert await anext(places) == 1

    asyncio.run(scenario())
