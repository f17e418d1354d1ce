"""Answers: JSON bodies, and the one translation of errors into status, headers and body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from era import wire
from era.errors import CODES, EraError, InternalError

JSON: Final = "application/json"
ENVELOPED: Final = frozenset(
    f"/api/vm/{word}" for word in ("create", "execute", "temp", "list", "stop", "clean", "shell")
)
"""Paths whose answers say in a member of theirs whether the request succeeded."""

_RETRY_AFTER_SECONDS: Final[Mapping[str, int]] = {
    "setup_pending": 5,
    "session_queue_full": 1,
    "server_busy": 1,
    "shutting_down": 1,
    "session_busy": 1,
}
"""Codes that promise `Retry-After`, and its value when the error names none."""

_NO_HINT: Final = frozenset({"invalid_json"})
"""Codes whose hint depends on the request."""


class CutError(Exception):
    """An answer that has begun has no end: the connection is to be cut, so that its client knows."""


def json_answer(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A compact JSON answer."""
    return Response(wire.encode(value), status, headers, JSON)


def enveloped(data: Any, status: int = 200) -> Response:
    """A successful answer of an operation of `ENVELOPED`."""
    return json_answer({"success": True, "data": data, "status_code": status}, status)


def error_answer(
    error: EraError, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> Response:
    """The answer to a request that failed: the error's body, and the headers its code promises.
    `path` is what was asked for."""
    all_headers = dict(headers or {})
    retry = error.retry_after_seconds or _RETRY_AFTER_SECONDS.get(error.code)
    if retry is not None:
        all_headers["Retry-After"] = str(max(1, retry))
    if error.code == "unauthorized":
        all_headers["WWW-Authenticate"] = "Bearer"
    body = error_body(error)
    if path in ENVELOPED:
        body = {"success": False, **body, "status_code": error.status}
    return json_answer(body, error.status, all_headers)


def error_body(error: EraError) -> dict[str, Any]:
    """The JSON object of an error; the advice of its code is the hint unless it has its own.

    What the service says of its own failures is for the log: a client gets the code's text alone.
    """
    if isinstance(error, InternalError):
        error = EraError(error.code)
    body = error.body()
    if error.code not in _NO_HINT:
        body.setdefault("hint", CODES[error.code].advice)
    return body
