"""Workers of the suite run tests side by side, but for those marked `alone`: while one of these runs, no other does.

Between processes these are two locks on files. Who runs beside others shares the room, who runs alone has it for
itself; all come in through one door, so that who waits for an empty room is not passed by.
"""

import fcntl
import os
from pathlib import Path


class Turns:
    """The turns of one worker; a lock ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._door, self._room = (os.open(folder / name, os.O_CREAT | os.O_RDWR) for name in ("door", "room"))
        self._is_alone = False

    def begin(self, *, alone: bool) -> None:
        """Wait until this test may run."""
        if not (alone and self._is_alone):
            fcntl.flock(self._door, fcntl.LOCK_EX)
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(self._door, fcntl.LOCK_UN)
            self._is_alone = alone

    def end(self, *, next_alone: bool) -> None:
        """Let others in, unless the next test of this worker wants to be alone as well."""
        if not (self._is_alone and next_alone):
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._is_alone = False
