"""Request bodies: read within a bound, whole or as a stream; and noticing that the client left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope

from era import jsontext
from era.errors import InputError, TooLargeError

T = TypeVar("T")

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


def declared_length(scope: Scope) -> int | None:
    """`Content-Length` of a request, None when it declares none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


async def stream(scope: Scope, receive: Receive, limit: int, code: str) -> AsyncIterator[bytes]:
    """The body in pieces as they come.

    Raises:
        TooLargeError: `code`, before reading when the declared length passes `limit`, else at the
            first byte beyond it.
        ClientGoneError: the connection broke before the end.
    """
    if (declared_length(scope) or 0) > limit:
        raise TooLargeError(code, limit)
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise TooLargeError(code, limit)
        if piece:
            yield piece
        more = message.get("more_body", False)


async def read_object(scope: Scope, receive: Receive, limit: int) -> dict[str, Any]:
    """The JSON object of a request; an empty body is `{}`.

    Raises:
        InputError: `invalid_json`, `invalid_body`.
        TooLargeError: `body_too_large`.
        ClientGoneError: the connection broke before the end.
    """
    pieces = [piece async for piece in stream(scope, receive, limit, "body_too_large")]
    raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if not raw.strip():
        return {}
    value = parse(raw)
    if not isinstance(value, dict):
        raise InputError("invalid_body")
    return value


def parse(raw: bytes) -> Any:
    """The value of a JSON text from a client.

    Raises:
        InputError: `invalid_json`, whose message says where; with a hint for text with comments.
    """
    try:
        return jsontext.loads(raw)
    except jsontext.JsonTextError as error:
        outside = _STRING.sub(b'""', raw)
        comments = b"//" in outside or b"/*" in outside or b"#" in outside
        hint = "JSON has no comments; remove what follows # or //" if comments else None
        raise InputError("invalid_json", message=str(error), hint=hint) from None


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T | None:
    """The result of `work`, which is cancelled when the client disconnects: then None.

    Call it once the body has been read, so that the next message can only be the disconnect.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return None
    finally:
        # Also when this very request is cancelled: nothing of it stays behind.
        watch.cancel()
        task.cancel()


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone; for after the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
