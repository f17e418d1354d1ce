"""A connection to another HTTP server, for one request: one of ours, or one in a box."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Final

import h11

MAX_HEAD_BYTES: Final = 256 << 10
"""Of an answer: line, headers, and what frames its body."""
CHUNK: Final = 64 << 10
HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding upgrade expect".split()
)
"""Headers that are about one connection, or that the server at its other end acts upon itself."""

Headers = list[tuple[bytes, bytes]]


class Peer:
    """One exchange.  A slow side holds up the other: neither is read faster than is written on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self.writer: Final = writer
        self.http: Final = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    @classmethod
    async def over(cls, connection: socket.socket) -> Peer:
        """An exchange over a socket that is connected already."""
        try:
            return cls(*await asyncio.open_connection(sock=connection))
        except BaseException:
            connection.close()
            raise

    async def send(self, message: h11.Event) -> None:
        """Send one part of the request."""
        data = self.http.send(message)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def next(self) -> object:
        """The next part of the answer."""
        while (message := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(CHUNK))
        return message

    def close(self) -> None:
        """Let go of the connection; the other server sees that nobody waits any more."""
        self.writer.close()


def kept(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> Headers:
    """The headers whose (lower-case) names are not in `without`."""
    return [(name, value) for name, value in headers if name not in without]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that are not about one connection, nor named as such by `Connection`."""
    all_headers = tuple(headers)
    named = b",".join(value for name, value in all_headers if name == b"connection")
    without = HOP_BY_HOP | {token.strip().lower() for token in named.split(b",")}
    return kept(all_headers, without)
