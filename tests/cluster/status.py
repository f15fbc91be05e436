"""Errors as an API server words them: `Status` objects with code, reason and message."""

from typing import Any

Object = dict[str, Any]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """A request that is answered with a Status object instead of what was asked for."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: Object | None = None) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.reason = reason or REASONS.get(code, "Unknown")
        self.details = details or {}

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(resource: str, name: str) -> ApiError:
    """
    >>> not_found("pods", "x").status()["message"]
    'pods "x" not found'
    """
    return ApiError(404, f'{resource} "{name}" not found', details={"name": name, "kind": resource})


def already_exists(resource: str, name: str) -> ApiError:
    message = f'{resource} "{name}" already exists'
    return ApiError(409, message, reason="AlreadyExists", details={"name": name, "kind": resource})


def conflict(resource: str, name: str) -> ApiError:
    return ApiError(
        409,
        f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified; please apply your '
        "changes to the latest version and try again",
        details={"name": name, "kind": resource},
    )


def invalid(kind: str, group: str, name: str, problems: list[str]) -> ApiError:
    """
    >>> invalid("PyTorchJob", "kubeflow.org", "x", ["spec: Required value"]).message
    'PyTorchJob.kubeflow.org "x" is invalid: spec: Required value'
    """
    full_kind = f"{kind}.{group}" if group else kind
    text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
    causes = [{"reason": "FieldValueInvalid", "message": problem} for problem in problems]
    return ApiError(
        422,
        f'{full_kind} "{name}" is invalid: {text}',
        details={"name": name, "group": group, "kind": kind, "causes": causes},
    )
