"""Stored code as the answer to a request: what it is told, and what is made of its output."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response

from era import jsontext, wire
from era.api.answers import JSON, error_answer
from era.api.body import unless_gone, whole
from era.api.origin import answer_headers
from era.api.peer import Headers
from era.api.routing import Call
from era.errors import InputError, UnavailableError
from era.models import HttpRequest, RunRequest, RunResult

TURN_SECONDS: Final = 30.0
"""How long a request may wait for the run that answers it to begin."""
PLAIN: Final = "text/plain; charset=utf-8"
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NEVER: Final = re.compile("(?:access-control-|x-era-).*|content-length")
"""Headers that are not the code's to set."""
_WITHOUT_BODY: Final = (204, 205, 304)


def no_code() -> InputError:
    """There is neither a server nor stored code."""
    hint = "Use PUT /api/sessions/{id}/code to store default code"
    return InputError("no_code", "No code stored in session", hint=hint)


def told(call: Call, path: bytes, headers: Headers) -> HttpRequest:
    """A request as stored code is told of it, but for its body; several headers of one name are
    joined as HTTP says."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        joint = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{joint}{value}" if name in found else value
    length = call.header("content-length")
    if length is not None:
        found["content-length"] = length
    query = call.scope["query_string"].decode("latin-1")
    return HttpRequest(
        method=call.scope["method"],
        path=path.decode("latin-1"),
        query=f"?{query}" if query else "",
        headers=found,
    )


async def answered(call: Call, http: HttpRequest, prefix: bytes) -> Response | None:
    """Run the stored code for a request; None when the client has gone.

    Raises:
        InputError: `no_code`, when it was removed meanwhile.
        UnavailableError: `session_busy`, when its turn did not come in time.
        Others: as a run of the session.
    """
    options = call.options
    limit = options.bounds.body_bytes
    async with whole(call.scope, call.receive, limit, options.buffer) as body:
        request = RunRequest(
            http=HttpRequest(
                method=http.method,
                path=http.path,
                query=http.query,
                headers=http.headers,
                body=body,
            ),
            base_url=call.base_url(),
            turn_seconds=TURN_SECONDS,
        )
        try:
            running = call.sessions.run(call.session_id, request)
            result = await unless_gone(call.receive, running)
        except InputError as error:
            raise no_code() if error.code == "no_code" else error from None
    return None if result is None else answer_of(result, prefix)


def answer_of(result: RunResult, prefix: bytes) -> Response:
    """The answer that a run comes to."""
    about = {"X-Era-Exit-Code": str(result.exit_code), "X-Era-Run-Id": result.run_id}
    if result.timed_out:
        return error_answer(UnavailableError("relay_timeout"), about)
    status = 200 if result.exit_code == 0 else 500
    try:
        value = jsontext.loads(result.stdout.strip())
    except jsontext.JsonTextError:
        return _bytes(result.stdout.encode("utf-8", "replace"), status, PLAIN, about)
    if not isinstance(value, dict):
        return _bytes(wire.encode(value), 200, JSON, about)
    return _described(value, status, about, prefix)


def _described(
    value: Mapping[str, Any], status: int, about: Mapping[str, str], prefix: bytes
) -> Response:
    """The answer that a JSON object describes."""
    wanted = value.get("status")
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 200 <= wanted <= 599:
        status = wanted
    headers = _headers(value.get("headers"))
    media_type = value.get("contentType")
    if not (isinstance(media_type, str) and _is_value(media_type)):
        media_type = headers.get("content-type", JSON)
    headers.pop("content-type", None)
    answer = _bytes(_body(value), status, media_type, about)
    raw = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
    answer.raw_headers.extend(answer_headers(raw, prefix))
    return answer


def _bytes(content: bytes, status: int, media_type: str, about: Mapping[str, str]) -> Response:
    if status in _WITHOUT_BODY:
        content = b""
    return Response(content, status, {"Content-Type": media_type, **about})


def _body(value: Mapping[str, Any]) -> bytes:
    encoded = value.get("body_base64")
    if isinstance(encoded, str):
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(encoded, validate=True)
    if "body" not in value:
        return wire.encode(value)
    body = value["body"]
    return body.encode("utf-8", "replace") if isinstance(body, str) else wire.encode(body)


def _headers(value: Any) -> dict[str, str]:
    """Those that are headers, by their lower-case names."""
    if not isinstance(value, dict):
        return {}
    return {
        name.lower(): text.strip()
        for name, text in value.items()
        if isinstance(text, str)
        and _NAME.fullmatch(name)
        and _is_value(text)
        and not _NEVER.fullmatch(name.lower())
    }


def _is_value(text: str) -> bool:
    return _VALUE.fullmatch(text) is not None
