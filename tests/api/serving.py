"""An application behind a real server on a loopback port, and raw requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from era.api.server import server as http_server


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serve `app` as `era serve` does; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server(app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@dataclass(frozen=True, slots=True)
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> RawAnswer:
    """One answer of a known length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    length = 0 if head else int(headers.get("content-length", 0))
    return RawAnswer(int(lines[0].split()[1]), headers, await reader.readexactly(length))


@contextlib.asynccontextmanager
async def connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed with the context whatever happens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(port: int, *pieces: bytes, head: bool = False) -> RawAnswer:
    """Send bytes as they are, and read one answer."""
    async with connection(port) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await read_answer(reader, head=head)


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of one request; the target is sent as it is written."""
    lines = [f"{method} {target} HTTP/1.1", "Host: era.test", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
