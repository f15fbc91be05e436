"""The playground's real server for tests: in a thread, on a free port of this machine."""

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from inference.playground.app import Access, make_app

SECONDS = 240
TOKEN = "a-token-of-some-length"


@contextmanager
def serving(models, questions, token=None, **options):
    """The address of a server that answers; it is ended afterwards."""
    app = make_app(models, questions, Access(token, frozenset({"127.0.0.1"})), **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
