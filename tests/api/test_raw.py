"""What only a real server and raw bytes show: chunked bodies, odd targets, clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from era.api import rest, server
from era.api.options import Bounds
from era.models import RunRequest, RunResult
from era.sessions.service import Sessions
from tests.api.serving import connection, exchange, read_answer, request, serving

pytestmark = pytest.mark.anyio

LIMIT = 50_000
CHUNK = b"%x\r\n%s\r\n"


@pytest.fixture
async def port(make_app: Callable[..., Any]) -> AsyncIterator[int]:
    app = make_app(bounds=Bounds(body_bytes=LIMIT, file_bytes=LIMIT))
    async with serving(app) as port:
        body = json.dumps({"id": "s", "language": "python"}).encode()
        assert (await exchange(port, request("POST", "/api/sessions", body))).status == 201
        yield port


def chunked(method: str, target: str) -> bytes:
    lines = (f"{method} {target} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "", "")
    return "\r\n".join(lines).encode()


TARGETS = [
    ("POST", "/api/execute", "body_too_large", "request body exceeds 50000 bytes"),
    ("PUT", "/api/sessions/s/files/f", "file_too_large", "file exceeds 50000 bytes"),
]


@pytest.mark.parametrize(("method", "target", "code", "text"), TARGETS)
async def test_a_declared_length_is_refused_unread(
    port: int, method: str, target: str, code: str, text: str
) -> None:
    """The answer comes though not one byte of the body was sent."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**15}\r\n\r\n"
    answer = await asyncio.wait_for(exchange(port, head.encode()), 20)
    assert (answer.status, answer.json()["code"], answer.json()["error"]) == (413, code, text)


@pytest.mark.parametrize(("method", "target", "code", "text"), TARGETS)
async def test_a_chunked_body_is_refused_while_it_comes(
    port: int, method: str, target: str, code: str, text: str
) -> None:
    """The answer comes though the body never ends."""
    piece = b"x" * 20_000
    pieces = [CHUNK % (len(piece), piece)] * 3
    answer = await asyncio.wait_for(exchange(port, chunked(method, target), *pieces), 20)
    assert (answer.status, answer.json()["code"], answer.json()["error"]) == (413, code, text)


async def test_a_refused_body_is_dropped_and_the_connection_serves_on(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("POST", "/api/execute", b" " * (LIMIT * 40)))
    assert (await read_answer(reader)).status == 413
    writer.write(request("GET", "/health"))
    assert (await read_answer(reader)).status == 200
    writer.close()


def send_all_then_read(port: int, data: bytes) -> bytes:
    """A client that reads nothing before it has sent everything."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("chunks", [False, True])
async def test_who_asks_for_a_close_still_learns_why_its_body_is_refused(
    port: int, chunks: bool
) -> None:
    """Closed with the answer, the connection would be reset under a client that still sends."""
    body = b" " * (16 << 20)
    head = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
    data = f"POST /api/execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n".encode()
    data += CHUNK % (len(body), body) + b"0\r\n\r\n" if chunks else body
    answer = await asyncio.to_thread(send_all_then_read, port, data)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer


async def test_a_rest_that_never_comes_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "REST_SECONDS", 0.05)
    head = request("POST", "/api/execute", b" " * (LIMIT * 2), Connection="close").rstrip(b" ")
    answer = await asyncio.to_thread(send_all_then_read, port, head)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_within_the_limit(port: int) -> None:
    text = json.dumps({"code": "print(1)", "language": "python"}).encode()
    pieces = [CHUNK % (1, text[n : n + 1]) for n in range(len(text))]
    answer = await exchange(port, chunked("POST", "/api/execute"), b"".join(pieces), b"0\r\n\r\n")
    assert (answer.status, answer.json()["stdout"]) == (200, "1\n")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/sessions/s/files/../../../health", 400, "invalid_path"),
        ("/api/sessions/s/files/%2e%2e/%2e%2e/x", 400, "invalid_path"),
        ("/api/sessions/s/files/..%2f..%2fx", 400, "invalid_path"),
        ("/api/sessions/s/files//etc/passwd", 400, "invalid_path"),
        ("/api/sessions/s%2ffiles%2ff", 404, "session_not_found"),
        ("/api/sessions/../health", 404, "not_found"),
        ("/api/sessions/%2e%2e", 404, "session_not_found"),
        ("/api//sessions", 404, "not_found"),
        ("/api/sessions/s/files/%", 404, "file_not_found"),
        ("/api/sessions/s/files/%zz", 404, "file_not_found"),
    ],
)
async def test_odd_targets(port: int, target: str, status: int, code: str) -> None:
    answer = await exchange(port, request("GET", target))
    assert (answer.status, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("a%2Fb", "a/b"),
        ("a%252e", "a%2e"),
        ("a%23b%3Fc%20d", "a#b?c d"),
        ("a\\b", "a\\b"),
        ("a+b", "a+b"),
        ("%c3%a9", "é"),
        ("x?download=1", "x"),
    ],
)
async def test_targets_are_decoded_once(port: int, target: str, name: str) -> None:
    answer = await exchange(port, request("PUT", f"/api/sessions/s/files/{target}", b"bytes"))
    assert (answer.status, answer.json()) == (200, {"path": name, "size": 5})


async def answer_or_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What a connection says before it ends, though bytes are sent to it for ever."""

    async def flood() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x-more: " + b"y" * 1000 + b"\r\n")
                await writer.drain()

    flooding = asyncio.create_task(flood())
    try:
        return await asyncio.wait_for(reader.readline(), 30)
    except ConnectionError:
        return b""
    finally:
        flooding.cancel()


ENDLESS = {
    "headers": b"GET / HTTP/1.1\r\n",
    "one header": b"GET / HTTP/1.1\r\nx: ",
    "a target": b"GET /",
    "trailers": chunked("POST", "/api/execute") + CHUNK % (1, b"{") + b"0\r\n",
    "a chunk's extension": chunked("POST", "/api/execute") + b"1;",
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_heads_without_an_end(port: int, case: str) -> None:
    """A connection that sends no end of a head is ended; the server serves on."""
    async with connection(port) as (reader, writer):
        writer.write(ENDLESS[case])
        said = await answer_or_end(reader, writer)
    assert said in (b"", b"HTTP/1.1 400 Bad Request\r\n")
    assert (await exchange(port, request("GET", "/health"))).status == 200


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_heads_that_take_too_long(
    port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    async with connection(port) as (reader, writer):
        writer.write(begun)
        assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_a_long_body_may_take_its_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    async with connection(port) as (reader, writer):
        writer.write(
            b"PUT /api/sessions/s/files/f HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        )
        for _ in range(4):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await read_answer(reader)).status == 200


async def test_an_upload_that_breaks_leaves_what_was_there(port: int) -> None:
    target = "/api/sessions/s/files/f"
    await exchange(port, request("PUT", target, b"old"))
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nnew".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    answer = await exchange(port, request("GET", target))
    assert answer.body == b"old"
    assert answer.headers["etag"] == f'"{hashlib.sha256(b"old").hexdigest()}"'


async def test_head_over_a_real_connection(port: int) -> None:
    await exchange(port, request("PUT", "/api/sessions/s/files/f", b"12345"))
    answer = await exchange(port, request("HEAD", "/api/sessions/s/files/f"), head=True)
    assert (answer.status, answer.headers["content-length"]) == (200, "5")


class Watched:
    """Calls of the service that never end by themselves, and whether they were cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def execute(self, _request: RunRequest, _sink: object = None) -> RunResult:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError

    async def run(self, _id: str, request: RunRequest, _sink: object = None) -> RunResult:
        return await self.execute(request)


@pytest.mark.parametrize("target", ["/api/execute", "/api/sessions/s/run"])
async def test_a_client_that_leaves_cancels_its_call(
    port: int, target: str, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    monkeypatch.setattr(sessions, "execute", watched.execute)
    monkeypatch.setattr(sessions, "run", watched.run)
    body = json.dumps({"code": "x", "language": "python"}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("POST", target, body))
    await asyncio.wait_for(watched.entered.wait(), 20)
    assert not watched.cancelled.is_set()
    writer.close()
    await asyncio.wait_for(watched.cancelled.wait(), 20)
    assert (await exchange(port, request("GET", "/health"))).status == 200


async def test_a_run_goes_on_without_its_client(port: int, sessions: Sessions) -> None:
    code = "import time; open('begun','w').close(); time.sleep(0.5); open('done','w').write('x')"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("POST", "/api/sessions/s/run", json.dumps({"code": code}).encode()))
    await writer.drain()
    while not (await sessions.get("s")).running:
        await asyncio.sleep(0.01)
    writer.close()
    while (await sessions.get("s")).running:
        await asyncio.sleep(0.01)
    page = await sessions.files("s")
    assert [str(entry.path) for entry in page.items] == ["begun", "done"]


async def test_requests_one_after_another_on_one_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("GET", "/") + request("GET", "/x") + request("GET", "/health"))
    assert [(await read_answer(reader)).status for _ in range(3)] == [200, 404, 200]
    writer.close()
