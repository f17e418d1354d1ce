"""The rest of a body that was refused: read and dropped before its connection is closed.

A connection closed while its client still sends is reset, and a client that sends all before it reads
never sees why.  Where the connection stays open the HTTP server drops the rest itself.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from era.waiting import within

REST_SECONDS: Final = 10.0
"""How long the rest may take; then the connection is closed all the same."""


class Rest:
    """What one request has still to send.  `receive` and `send` are to be used instead of those given."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._to_come = _closes(scope) and _has_body(scope)

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._to_come = self._to_come and bool(message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        """Send a message; the last one of an answer waits for the rest of the request."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (last and self._to_come):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with within(REST_SECONDS):
                while self._to_come:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _closes(scope: Scope) -> bool:
    """Whether the client wants its connection closed after the answer."""
    wishes = [value.lower() for name, value in scope["headers"] if name == b"connection"]
    return scope["http_version"] == "1.0" or any(b"close" in wish for wish in wishes)


def _has_body(scope: Scope) -> bool:
    names = {name for name, value in scope["headers"] if value != b"0"}
    return bool(names & {b"content-length", b"transfer-encoding"})
