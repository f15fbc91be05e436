"""`exec` over a websocket, as kubectl (v5.channel.k8s.io) and the Python client (v4) speak it."""

import asyncio
import json

from aiohttp import WSMsgType, web

from tests.cluster.status import Object

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK_BYTES = 32 * 1024


async def serve_exec(
    request: web.Request, process: asyncio.subprocess.Process, pause_seconds: float
) -> web.WebSocketResponse:
    """Connect a process to a websocket: one channel each for its streams, and one for its exit status.

    `pause_seconds` after each chunk make a slow network.
    """
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
    await socket.prepare(request)
    feeding = asyncio.create_task(_feed(socket, process))
    try:
        streams = ((process.stdout, STDOUT), (process.stderr, STDERR))
        await asyncio.gather(*(_pump(socket, stream, channel, pause_seconds) for stream, channel in streams))
        status = _exit_status(await process.wait())
        await socket.send_bytes(bytes([ERROR]) + json.dumps(status).encode())
    except (ConnectionError, RuntimeError):  # the client went
        pass
    finally:
        feeding.cancel()
        if process.returncode is None:
            process.kill()
            await process.communicate()  # what is left in its pipes would keep them open
        await socket.close()
    return socket


async def _pump(
    socket: web.WebSocketResponse, stream: asyncio.StreamReader | None, channel: int, pause_seconds: float
) -> None:
    assert stream is not None
    while chunk := await stream.read(CHUNK_BYTES):
        await socket.send_bytes(bytes([channel]) + chunk)
        await asyncio.sleep(pause_seconds)


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    """Pass on what the client sends, until it closes the channel (v5) or goes."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data or process.stdin is None:
            continue
        channel, content = message.data[0], message.data[1:]
        if channel == STDIN and not process.stdin.is_closing():
            process.stdin.write(content)
            await process.stdin.drain()
        elif channel == CLOSE and content[:1] == bytes([STDIN]):
            process.stdin.close()
    if process.returncode is None:
        process.kill()


def _exit_status(code: int) -> Object:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
