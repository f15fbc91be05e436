"""What both servers of this package must do before they listen: packages, exposure, the port. No torch here."""

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Sequence

from train.failure import ConfigError

MIN_TOKEN_CHARACTERS = 12


def missing_packages(names: Sequence[str], *, extra: str) -> None:
    """Raise ConfigError where an optional package is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed", f"Install with: pip install -e '.[{extra}]'.")


def is_loopback(host: str) -> bool:
    """Say whether an address is reachable from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, secret: str | None, *, option: str = "--token") -> None:
    """Refuse (ConfigError) to answer the network without a secret, or with one that is soon guessed."""
    if secret is None and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, and no {option} protects it",
            f"Add {option}, or stay on 127.0.0.1 and use an SSH tunnel or kubectl port-forward.",
        )
    if secret is not None and len(secret) < MIN_TOKEN_CHARACTERS:
        raise ConfigError(
            f"the {option} has {len(secret)} characters; at least {MIN_TOKEN_CHARACTERS} are needed",
            'Make one with: python -c "import secrets; print(secrets.token_urlsafe())".',
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port in use is told before a model is loaded (ConfigError)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason.lower()}", "Choose another --port.") from None
