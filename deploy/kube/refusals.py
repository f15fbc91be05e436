"""A cluster's refusals and lost connections become errors with a remedy here."""

import json
from typing import Any

import urllib3.exceptions

from deploy.errors import ClusterError, ExitCode


def explain_status(status: int, body: Any, what: str) -> ClusterError:
    """Return the API's refusal as an error that says what to do.

    >>> str(explain_status(404, b'{"message": "no pod a"}', "GET /a"))
    '404: no pod a. `python -m deploy preflight PROFILE` says what else may be missing.'
    """
    message = _api_message(body) or what
    if status == 401:
        return ClusterError(
            f"the cluster does not know us (401: {message})",
            "Log in again: oc login, or renew the credentials in the kubeconfig.",
            exit_code=ExitCode.FORBIDDEN,
            status=status,
        )
    if "waiting to start" in message or "does not have a host assigned" in message:
        remedy = "`python -m deploy status PROFILE` says what it waits for."
        return ClusterError(f"there is no log yet: {message}", remedy, exit_code=ExitCode.MISSING, status=status)
    if "exceeded quota" in message:
        remedy = "Lower the profile's resources or pods, delete what is not needed, or ask for more quota."
        return ClusterError(f"quota exceeded: {message}", remedy, exit_code=ExitCode.REFUSED, status=status)
    if "admission webhook" in message or status in (400, 422):
        remedy = "The cluster will not take the manifest as it is; change the profile, or ask who runs the cluster."
        return ClusterError(f"refused ({status}): {message}", remedy, exit_code=ExitCode.REFUSED, status=status)
    known = {
        403: (ExitCode.FORBIDDEN, "Ask for the role `edit` in the namespace, or choose another one with --namespace."),
        404: (ExitCode.MISSING, "`python -m deploy preflight PROFILE` says what else may be missing."),
        409: (ExitCode.CONFLICT, "Something of that name is there already; `status` shows it, `delete` removes it."),
    }
    exit_code, remedy = known.get(status, (ExitCode.UNREACHABLE, "Try again; if it stays, ask who runs the cluster."))
    return ClusterError(f"{status}: {message}", remedy, exit_code=exit_code, status=status)


def _api_message(body: Any) -> str:
    """The message of a Status object, or the text itself."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        return str(json.loads(text)["message"]).rstrip(".")
    except (ValueError, TypeError, KeyError):
        return one_line(text)[:300]


def may_repeat(method: str, error: Exception) -> bool:
    """Return whether a request may be sent again: if it only reads or removes, or if it never arrived."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return False
    return method in ("get", "delete") or isinstance(error, urllib3.exceptions.NewConnectionError)


def unreachable(host: str, error: Exception) -> ClusterError:
    """Return the error of a cluster that gave no answer at all."""
    return ClusterError(
        f"the cluster at {host} cannot be reached ({one_line(error)})",
        "Check the network, VPN and the context (`kubectl config current-context`).",
        exit_code=ExitCode.UNREACHABLE,
    )


def one_line(text: object) -> str:
    """Return an error's text on one line; of a connection error only the cause, which libraries put last.

    >>> one_line("HTTPConnection(host='h', port=1): Failed to connect: [Errno 111] Connection refused")
    'Connection refused'
    """
    return " ".join(str(text).split()).rpartition("[Errno ")[2].rpartition("] ")[2].rpartition(">: ")[2]
