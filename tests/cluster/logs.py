"""What a container writes, line by line with the time of each, and how clients read it."""

import asyncio
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

POLL_SECONDS = 0.05
READ_BYTES = 1024**2
YES = ("true", "True", "1")
# What the kubelet keeps of a log as a termination message, where the policy is FallbackToLogsOnError.
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048


@dataclass
class ContainerLog:
    """The output of one run of a container."""

    lines: list[tuple[str, bytes]] = field(default_factory=list)
    is_over: bool = False

    async def pump(self, stream: asyncio.StreamReader) -> None:
        """Take in a stream until its end; what comes at once has one time stamp, as with CRI-O."""
        rest = b""
        while chunk := await stream.read(READ_BYTES):
            stamp = _nanoseconds_stamp()
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [(stamp, line + b"\n") for line in lines]
        if rest:
            self.lines.append((_nanoseconds_stamp(), rest + b"\n"))

    def text(self) -> str:
        return b"".join(line for _, line in self.lines).decode("utf-8", "replace")

    def tail(self) -> str:
        """The end of the log, as a termination message."""
        return "".join(self.text().splitlines(keepends=True)[-FALLBACK_LINES:])[-FALLBACK_BYTES:]


def _nanoseconds_stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def first_line(log: ContainerLog, query: Mapping[str, str]) -> int:
    """The index of the first line that a request asks for by `tailLines` or `sinceTime`.

    >>> first_line(ContainerLog([("2026-01-01T00:00:01Z", b"a"), ("2026-01-01T00:00:02Z", b"b")]), {"tailLines": "1"})
    1
    """
    start = 0
    if since := query.get("sinceTime"):
        start = next((i for i, (stamp, _) in enumerate(log.lines) if stamp >= since), len(log.lines))
    if (tail := query.get("tailLines")) is not None:
        start = max(start, len(log.lines) - int(tail))
    return start


async def send_log(request: web.Request, log: ContainerLog) -> web.StreamResponse:
    """Answer with a log; with `follow`, until its container ends or the client goes."""
    query = request.query
    has_stamps, follows = query.get("timestamps") in YES, query.get("follow") in YES
    position = first_line(log, query)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    while True:
        is_over = log.is_over  # asked before reading, so that the last words are not missed
        fresh = log.lines[position:]
        position += len(fresh)
        content = b"".join(f"{stamp} ".encode() + line if has_stamps else line for stamp, line in fresh)
        if limit := query.get("limitBytes"):
            content = content[: int(limit)]
        if content:
            await response.write(content)
        if is_over or not follows:
            return response
        await asyncio.sleep(POLL_SECONDS)
