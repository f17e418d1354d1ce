"""A connection of a client after it has stopped to be HTTP: bytes, both ways.

The HTTP server puts a `Tunnel` into the scope of a request that asks for another protocol.  Whoever
takes it writes the answer by himself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from starlette.types import Scope

from era.api.peer import Headers, Peer
from era.waiting import ended

TUNNEL: Final = "era.tunnel"
"""Where it is among the extensions of a scope."""
_CHUNK: Final = 64 << 10


class Tunnel:
    """What comes after the head of a request is kept until it is taken, within bounds: then the
    transport is paused."""

    def __init__(
        self, transport: asyncio.Transport, drain: Callable[[], Any], taken: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._drain = drain
        self._on_taken = taken
        self._reader = asyncio.StreamReader(limit=_CHUNK)
        self._reader.set_transport(transport)
        self.used = False

    def feed(self, data: bytes) -> None:
        """Bytes of the client."""
        self._reader.feed_data(data)

    def feed_eof(self) -> None:
        """The client has gone."""
        self._reader.feed_eof()

    def take(self) -> None:
        """From now on nobody else writes to the client."""
        self.used = True
        self._on_taken()

    async def write(self, data: bytes) -> None:
        """Send to the client, not faster than it reads.

        Raises:
            ConnectionResetError: it has gone.
        """
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        await self._drain()

    async def switch(self, headers: Headers, peer: Peer) -> None:
        """Tell the client that `peer` speaks another protocol from now on, and carry that."""
        own = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        lines = b"".join(b"%s: %s\r\n" % header for header in (*headers, *own))
        rest, _closed = peer.http.trailing_data
        self.take()
        await self.write(b"HTTP/1.1 101 Switching Protocols\r\n%s\r\n%s" % (lines, rest))
        await self.carry(peer.reader, peer.writer)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes both ways until either side ends or breaks."""
        up = asyncio.ensure_future(self._up(writer))
        down = asyncio.ensure_future(self._down(reader))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended((up, down))
            self._transport.close()

    async def _up(self, writer: asyncio.StreamWriter) -> None:
        while data := await self._reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self.write(data)


def upgrade_of(scope: Scope) -> Tunnel | None:
    """The way round HTTP that a request for a WebSocket comes with."""
    wishes = [value.strip().lower() for name, value in scope["headers"] if name == b"upgrade"]
    tunnel: Tunnel | None = (scope.get("extensions") or {}).get(TUNNEL)
    return tunnel if wishes == [b"websocket"] else None


def connection_headers(scope: Scope) -> Headers:
    """What a request passed on says of its connection: that it ends, or what it is to become."""
    if upgrade_of(scope) is None:
        return [(b"connection", b"close")]
    return [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
