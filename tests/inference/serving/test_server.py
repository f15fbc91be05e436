"""What a server must be sure of before it listens."""

import socket

import pytest

from inference.serving.server import bind, check_exposure, is_loopback, missing_packages
from train.failure import ConfigError

EVERYWHERE = "0.0.0.0"  # noqa: S104


def test_missing_packages_are_named_with_the_extra_that_brings_them():
    missing_packages(("json", "socket"), extra="serve")
    with pytest.raises(ConfigError, match=r"no_such_one and nor_this not installed\. .*'\.\[serve\]'"):
        missing_packages(("no_such_one", "json", "nor_this"), extra="serve")


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "a.name.that.could.be.anyones"])
def test_the_network_is_answered_with_a_secret_alone(host):
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="no --api-key protects it"):
        check_exposure(host, None, option="--api-key")
    check_exposure(host, "twelve-chars", option="--api-key")


def test_a_secret_that_is_soon_guessed_is_refused_even_here():
    check_exposure("127.0.0.1", None)
    with pytest.raises(ConfigError, match="has 11 characters; at least 12 are needed"):
        check_exposure("127.0.0.1", "eleven-char")


def test_a_port_is_bound_or_the_reason_is_told():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", port) as again:
        assert again.family == socket.AF_INET
