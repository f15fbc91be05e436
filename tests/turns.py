"""Workers of the suite run tests side by side, but for those marked `alone`: while one of these runs, no other does.

Between processes these are two locks on files. Who runs beside others shares the room, who runs alone has it for
itself; all come in through one door, so that who waits for an empty room is not passed by.
"""

import fcntl
from pathlib import Path
from typing import IO


class Turns:
    """The turns of one worker; a lock ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        self._door, self._room = ((folder / name).open("w") for name in ("door", "room"))
        self._is_alone = False

    def begin(self, *, alone: bool) -> None:
        """Wait until this test may run."""
        if not (alone and self._is_alone):
            _lock(self._door, fcntl.LOCK_EX)
            _lock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            _lock(self._door, fcntl.LOCK_UN)
            self._is_alone = alone

    def end(self, *, next_alone: bool) -> None:
        """Let others in, unless the next test of this worker wants to be alone as well."""
        if not (self._is_alone and next_alone):
            _lock(self._room, fcntl.LOCK_UN)
            self._is_alone = False


def _lock(file: IO[str], how: int) -> None:
    fcntl.flock(file, how)
