"""One HTTP request of an agent, answered by the SDK's own transport without a state of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as types
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Message, Scope

from era import jsontext, wire
from era.mcp import server as servers
from era.mcp.tools import Limits, Tools
from era.sessions.service import Sessions

_JSON: Final = b"application/json"
_VERSION: Final = b"mcp-protocol-version"
_OURS: Final = frozenset({b"accept", b"content-type", b"content-length", b"transfer-encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the transport answers."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


async def answer(
    sessions: Sessions,
    limits: Limits,
    clock: Callable[[], int],
    base_url: str,
    scope: Scope,
    body: bytes,
) -> Answered:
    """The answer to one POST.  Cancelling it cancels what the tool began, but runs of sessions.

    `scope` is that of the request; whatever kinds of content it names, JSON is meant both ways.
    """
    if not _may_be_one(body):
        return _NO_REQUEST
    tools = Tools(sessions, limits, clock, base_url)
    manager = StreamableHTTPSessionManager(
        servers.make(sessions, tools),
        json_response=True,
        stateless=True,
        max_request_body_size=max(1, len(body)),
    )
    taken = _Taken()
    async with manager.run():
        await manager.handle_request(_as_json(scope, len(body)), _Given(body), taken)
    return Answered(status=taken.status, headers=taken.headers, body=b"".join(taken.pieces))


def _may_be_one(body: bytes) -> bool:
    """Whether the id is one: the transport would take a request with another for a notification, and
    its client would wait for ever."""
    try:
        members = jsontext.loads(body.decode())
    except (jsontext.JsonTextError, UnicodeDecodeError):
        return True  # the transport says what is wrong with it
    number = members.get("id") if isinstance(members, dict) else None
    return number is None or (isinstance(number, int | str) and not isinstance(number, bool))


_NO_REQUEST: Final = Answered(
    status=400,
    headers=((b"content-type", _JSON),),
    body=wire.encode(
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {
                "code": types.INVALID_REQUEST,
                "message": "id must be a string or an integer",
            },
        }
    ),
)


def _as_json(scope: Scope, size: int) -> Scope:
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in _OURS and (name, value) != (_VERSION, servers.OLDEST.encode())
    ]
    headers += [
        (b"accept", _JSON + b", text/event-stream"),
        (b"content-type", _JSON),
        (b"content-length", str(size).encode()),
    ]
    return {**scope, "headers": headers}


class _Given:
    """A body that has been read."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Taken:
    """An answer that is kept instead of sent."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.pieces: list[bytes] = []

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = tuple(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.pieces.append(message.get("body", b""))
