"""A lost connection is waited for, and said; what may have arrived is not sent twice."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import ClusterError
from deploy.kube.client import Cluster


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /version; fails before that as often as `failures` says."""

    failures: int = 0
    posts: int = 0

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        code = 200
        if Handler.failures:
            Handler.failures -= 1
            code = 503
        self._answer(code, {"gitVersion": "v1.32.0", "message": "busy"})

    def do_POST(self) -> None:
        Handler.posts += 1
        self.close_connection = True  # and not a byte of answer

    def _answer(self, code: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    Handler.failures = Handler.posts = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def said() -> list[str]:
    return []


def cluster_at(port: int, folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "kubeconfig"))
    return Cluster.connect("default", None, said.append)


def test_a_busy_cluster_is_asked_again(server, tmp_path, said, monkeypatch):
    cluster = cluster_at(server.server_port, tmp_path, said, monkeypatch)
    Handler.failures = 1
    assert cluster.version() == "v1.32.0"
    assert "503: busy; trying again" in said[0]
    assert "answers again" in said[1]


def test_an_absent_cluster_is_given_up_in_time(server, tmp_path, said, monkeypatch):
    cluster = cluster_at(server.server_port, tmp_path, said, monkeypatch)
    server.shutdown()
    server.server_close()
    cluster.patience_seconds = 0.2
    start = time.monotonic()
    with pytest.raises(ClusterError, match="Connection refused") as caught:
        cluster.version()
    assert (caught.value.exit_code, caught.value.status) == (10, 0)
    assert time.monotonic() - start < 5


def test_what_may_have_arrived_is_not_sent_twice(server, tmp_path, said, monkeypatch):
    cluster = cluster_at(server.server_port, tmp_path, said, monkeypatch)
    with pytest.raises(ClusterError, match="cannot be reached"):
        cluster.create({"kind": "Pod", "metadata": {"name": "p"}})
    assert Handler.posts == 1


def test_an_unknown_context_is_named(server, tmp_path, said, monkeypatch):
    cluster_at(server.server_port, tmp_path, said, monkeypatch)
    with pytest.raises(ClusterError, match="for context elsewhere") as caught:
        Cluster.connect("default", "elsewhere", said.append)
    assert caught.value.exit_code == 10
