"""A connection of a client after it has stopped to be HTTP: bytes, both ways.

The HTTP server puts a `Tunnel` into the scope of a request that asks for another protocol.  Whoever
takes it writes the answer by himself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

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
