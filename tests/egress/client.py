"""The box's side of a conversation with the broker, byte by byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from era.egress.environment import DNS_PORT, LOOPBACK, PROXY_PORT
from tests.egress.dns_client import query, read_reply
from tests.egress.netns import Namespace

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(
    box: Namespace, host: str = LOOPBACK, port: int = PROXY_PORT
) -> AsyncIterator[Pair]:
    """A connection from inside `box`."""
    sock = box.client()
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(box: Namespace, data: bytes, host: str = LOOPBACK, port: int = PROXY_PORT) -> bytes:
    """Send `data`, end, and read all that comes back."""
    async with connected(box, host, port) as (reader, writer):
        writer.write(data)
        await writer.drain()
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def get(box: Namespace, url: str, headers: str = "") -> tuple[int, str]:
    """Status and body of a plain request through the proxy."""
    authority = url.split("/")[2]
    head = f"GET {url} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{headers}\r\n"
    return parse(await ask(box, head.encode()))


def parse(answer: bytes) -> tuple[int, str]:
    """Status and text of an answer that ends with the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body.decode()


async def status_of_connect(box: Namespace, target: str) -> int:
    """What a CONNECT to `target` is answered with."""
    async with connected(box) as (reader, writer):
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        line = await reader.readline()
        return int(line.split(b" ")[1])


@asynccontextmanager
async def tunnel(box: Namespace, target: str) -> AsyncIterator[Pair]:
    """An open CONNECT tunnel."""
    async with connected(box) as (reader, writer):
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head, head
        yield reader, writer


async def resolve(box: Namespace, name: str, kind: int = 1) -> tuple[int, list[str]]:
    """Code and addresses from the box's name server, over UDP."""
    loop = asyncio.get_running_loop()
    with box.client(socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (LOOPBACK, DNS_PORT))
        await loop.sock_sendall(sock, query(name, kind, 7))
        identity, code, addresses = read_reply(await loop.sock_recv(sock, 4096))
    assert identity == 7
    return code, [str(each) for each in addresses]
