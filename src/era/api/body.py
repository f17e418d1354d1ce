"""Request bodies: read within bounds, whole or as a stream; and noticing that the client left.

Bounds of size, of time, and of what all unfinished bodies together may occupy.  A body of some size
is understood in a thread, one at a time: other requests are served meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from starlette.types import Message, Receive, Scope

from era import jsontext
from era.api.excess import check_values
from era.errors import BusyError, InputError, TooLargeError
from era.waiting import within

T = TypeVar("T")

SMALL_BYTES: Final = 64 << 10
"""Up to here a body is understood at once, and takes no share of what all may occupy."""
BUFFERED_BYTES: Final = 256 << 20
"""Of all bodies together that are being read or understood."""
SILENCE_SECONDS: Final = 30.0
"""How long a client may send nothing of a body that is not complete."""
BODY_SECONDS: Final = 600.0
"""How long a JSON body may take, however steadily it comes."""
_HINT_BYTES: Final = 1 << 20
"""How much of a text that is not JSON is searched for comments."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*(?:"|\\?\Z)', re.DOTALL)


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class StalledError(InputError):
    """The client sends a body too slowly; its connection is to be closed with the answer."""

    def __init__(self) -> None:
        text = "request body was not received in time"
        super().__init__("invalid_body", text, hint="Send the body without pauses.")


class Buffer:
    """What the bodies of all requests may occupy, and whose turn it is to be understood."""

    def __init__(self, limit: int = BUFFERED_BYTES) -> None:
        self.limit: Final = limit
        self.taken = 0
        self.turn: Final = asyncio.Lock()

    def take(self, size: int) -> None:
        """Occupy `size` more bytes, to be given back by the caller.

        Raises:
            BusyError: `server_busy`.
        """
        if self.taken + size > self.limit:
            raise BusyError("server_busy")
        self.taken += size


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
        StalledError: nothing came for too long.
        ClientGoneError: the connection broke before the end.
    """
    if (declared_length(scope) or 0) > limit:
        raise TooLargeError(code, limit)
    total, more = 0, True
    while more:
        message = await _next(receive)
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise TooLargeError(code, limit)
        if piece:
            yield piece
        more = message.get("more_body", False)


async def _next(receive: Receive) -> Message:
    try:
        async with within(SILENCE_SECONDS):
            return await receive()
    except TimeoutError:
        raise StalledError from None


async def read_object(
    scope: Scope,
    receive: Receive,
    limit: int,
    build: Callable[[dict[str, Any]], T],
    buffer: Buffer,
) -> T:
    """What `build` makes of the JSON object of a request; an empty body is `{}`.

    `build` is called in a thread when the body is not small.

    Raises:
        InputError: `invalid_json`, `invalid_body`; and what `build` raises.
        StalledError: it did not come in time.
        TooLargeError: `body_too_large`.
        BusyError: `server_busy`, when all bodies together are too large.
        ClientGoneError: the connection broke before the end.
    """
    async with whole(scope, receive, limit, buffer) as raw:
        if len(raw) <= SMALL_BYTES:
            return build(_object(raw))
        async with buffer.turn:
            return await asyncio.to_thread(lambda: build(_object(raw)))


async def read_bytes(scope: Scope, receive: Receive, limit: int, buffer: Buffer) -> bytes:
    """The whole body of a request, which is JSON of no more values than anybody needs.

    Raises: as `read_object`, but for what the text is.
    """
    async with whole(scope, receive, limit, buffer) as raw:
        check_values(raw)
        return raw


@asynccontextmanager
async def whole(scope: Scope, receive: Receive, limit: int, buffer: Buffer) -> AsyncIterator[bytes]:
    """The body; what it occupies is given back with the context.

    Raises (on entry):
        StalledError, TooLargeError, BusyError, ClientGoneError: as `read_object`.
    """
    pieces: list[bytes] = []
    total = taken = 0
    try:
        try:
            async with within(BODY_SECONDS):
                async for piece in stream(scope, receive, limit, "body_too_large"):
                    total += len(piece)
                    if total > SMALL_BYTES:
                        buffer.take(total - taken)
                        taken = total
                    pieces.append(piece)
        except TimeoutError:
            raise StalledError from None
        raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        yield raw
    finally:
        buffer.taken -= taken


def _object(raw: bytes) -> dict[str, Any]:
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
        TooLargeError: `body_too_large`, for more values than anybody needs.
    """
    check_values(raw)
    try:
        return jsontext.loads(raw)
    except jsontext.JsonTextError as error:
        outside = _STRING.sub(b'""', raw[:_HINT_BYTES])
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
