"""Requests to servers in a session's run, over real connections."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from era.api.origin import own_cookie
from era.api.places import Places
from era.errors import BusyError
from era.models import RunRequest
from era.sessions.service import Sessions
from tests.api.serving import RawAnswer, connection, exchange, read_answer, request, serving

pytestmark = pytest.mark.anyio

KEY = "the-key-9d1"
ECHO = r"""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = self.headers.get("Content-Length")
        if length is not None:
            body = self.rfile.read(int(length))
        elif self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = b""
        seen = {
            "method": self.command,
            "target": self.path,
            "headers": [[n.lower(), v] for n, v in self.headers.items()],
            "body": body.decode("latin-1"),
        }
        data = json.dumps(seen).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/x-seen")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Keep-Alive", "timeout=5")
        self.send_header("X-Own", "1")
        self.send_header("Connection", "X-Hop, keep-alive")
        self.send_header("X-Hop", "1")
        self.send_header("Set-Cookie", "a=1; Path=/in; HttpOnly")
        self.send_header("Set-Cookie", "b=2; Domain=era.test")
        self.send_header("Access-Control-Allow-Origin", "https://own.example")
        self.send_header("Service-Worker-Allowed", "/")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_PURGE = answer

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
RAW = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)

def head(client):
    seen = b""
    while b"\\r\\n\\r\\n" not in seen:
        piece = client.recv(65536)
        if not piece:
            raise SystemExit
        seen += piece
    return seen.partition(b"\\r\\n\\r\\n")

def serve(client):
{serve}
    client.close()

while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@dataclass(frozen=True, slots=True)
class World:
    """A server of ours on a port, and its sessions."""

    port: int
    sessions: Sessions
    client: httpx2.AsyncClient

    async def ask(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> httpx2.Response:
        return await self.client.request(
            method,
            target,
            content=body,
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )

    async def make(self, session_id: str = "s", **members: Any) -> None:
        made = await self.client.post(
            "/api/sessions",
            json={"id": session_id, "language": "python", "allowPublicAccess": True, **members},
        )
        assert made.status_code == 201, made.text

    @asynccontextmanager
    async def running(self, code: str, session_id: str = "s") -> AsyncIterator[int]:
        """A run of a program that prints the port it listens on."""
        came = asyncio.Event()
        seen: list[str] = []

        def sink(_stream: str, text: str) -> None:
            seen.append(text)
            if "\n" in "".join(seen):
                came.set()

        run = asyncio.ensure_future(
            self.sessions.run(session_id, RunRequest(code=code, timeout_seconds=600), sink)
        )
        waiting = asyncio.ensure_future(came.wait())
        await asyncio.wait((run, waiting), return_when=asyncio.FIRST_COMPLETED)
        assert came.is_set(), run.result()
        try:
            yield int("".join(seen).split()[0])
        finally:
            await self.sessions.cancel(session_id)
            await run

    @asynccontextmanager
    async def raw(self, serve: str) -> AsyncIterator[int]:
        """A run of a server that does `serve` with each `client`."""
        lines = "".join(f"    {line}\n" for line in serve.strip().split("\n"))
        async with self.running(RAW.format(serve=lines)) as port:
            yield port


@pytest.fixture
async def open_world(
    make_app: Callable[..., Any], sessions: Sessions
) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def opened(**options: Any) -> World:
            port = await stack.enter_async_context(serving(make_app(**options)))
            keys = options.get("api_keys")
            client = await stack.enter_async_context(
                httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"Authorization": f"Bearer {keys[0]}"} if keys else {},
                    timeout=60,
                )
            )
            return World(port, sessions, client)

        yield opened


@pytest.fixture
async def world(open_world: Callable[..., Any]) -> World:
    """A server without keys and a public session `s`."""
    world: World = await open_world()
    await world.make()
    return world


def headers_of(seen: dict[str, Any]) -> dict[str, str]:
    return dict(seen["headers"])


# --- what passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "PURGE"])
async def test_a_request_and_its_answer(world: World, method: str) -> None:
    async with world.running(ECHO) as port:
        body = b"" if method == "GET" else b"\x00\xff body"
        target = f"/proxy/s/{port}/a%2Fb/%7Ec//d;e?x=1&y=%20%2B&y"
        answer = await world.ask(method, target, body, X_Mine="1")
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/x-seen"
    seen = answer.json()
    assert (seen["method"], seen["target"]) == (method, "/a%2Fb/%7Ec//d;e?x=1&y=%20%2B&y")
    assert seen["body"].encode("latin-1") == body
    assert answer.headers["x-own"] == "1"
    assert not {"x-hop", "keep-alive", "service-worker-allowed"} & set(answer.headers)
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert len(answer.headers.get_list("date")) == 1


async def test_the_path_after_the_port_may_be_missing(world: World) -> None:
    async with world.running(ECHO) as port:
        for given, target in (
            ("", "/"),
            ("/", "/"),
            ("?q=1", "/?q=1"),
            ("/..", "/.."),
        ):
            raw = await exchange(world.port, request("GET", f"/proxy/s/{port}{given}"))
            assert raw.json()["target"] == target


async def test_the_head_of_an_answer(world: World) -> None:
    async with world.running(ECHO) as port, connection(world.port) as (reader, writer):
        for _ in range(2):  # the connection goes on
            writer.write(request("HEAD", f"/proxy/s/{port}/"))
            answer = await read_answer(reader, head=True)
            assert (answer.status, answer.headers["x-own"]) == (201, "1")


async def test_where_a_request_came_from(world: World) -> None:
    async with world.running(ECHO) as port:
        forged = {
            "X_Forwarded_For": "1.2.3.4",
            "X_Forwarded_Proto": "gopher",
            "X_Forwarded_Host": "evil",
            "X_Forwarded_Prefix": "/evil",
            "Forwarded": "for=1.2.3.4",
        }
        answer = await exchange(world.port, request("GET", f"/proxy/s/{port}/p", b"", **forged))
    seen = headers_of(answer.json())
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == ("era.test", "http")
    assert seen["x-forwarded-prefix"] == f"/proxy/s/{port}"
    assert seen["host"] == "era.test"
    assert "forwarded" not in seen


async def test_a_proxy_before_this_server_is_believed_when_it_is_trusted(
    open_world: Callable[..., Any],
) -> None:
    world = await open_world(trust_proxy=True)
    await world.make()
    async with world.running(ECHO) as port:
        forwarded = {
            "X_Forwarded_For": "1.2.3.4",
            "X_Forwarded_Proto": "https",
            "X_Forwarded_Host": "outside.example",
            "X_Forwarded_Prefix": "/era",
        }
        answer = await exchange(world.port, request("GET", f"/proxy/s/{port}/p", b"", **forwarded))
    seen = headers_of(answer.json())
    assert seen["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == ("outside.example", "https")
    assert seen["x-forwarded-prefix"] == f"/era/proxy/s/{port}"


async def test_what_is_about_one_connection_stays(world: World) -> None:
    async with world.running(ECHO) as port:
        headers = {
            "Connection": "keep-alive, X-Named",
            "X_Named": "1",
            "Keep_Alive": "1",
            "TE": "trailers",
            "Proxy_Authorization": "Basic x",
            "Upgrade": "h2c",
            "X_Kept": "1",
            "X_Era_Hops": "1",
        }
        answer = await exchange(world.port, request("GET", f"/proxy/s/{port}/", b"", **headers))
    seen = headers_of(answer.json())
    assert seen["connection"] == "close"
    assert seen["x-kept"] == "1"
    gone = {"x-named", "keep-alive", "te", "proxy-authorization", "upgrade", "x-era-hops"}
    assert not gone & set(seen)


async def test_a_body_in_chunks_is_framed_anew(world: World) -> None:
    async with world.running(ECHO) as port:
        head = f"POST /proxy/s/{port}/ HTTP/1.1\r\nHost: era.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = (b"3;x=y\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\nTrailer: 1\r\n\r\n")
        answer = await exchange(world.port, head.encode(), *pieces)
        seen = answer.json()
        assert seen["body"] == "abcde"
        assert headers_of(seen)["transfer-encoding"] == "chunked"
        assert "content-length" not in headers_of(seen)


async def test_cookies_belong_to_the_session(world: World) -> None:
    async with world.running(ECHO) as port:
        answer = await world.ask("GET", f"/proxy/s/{port}/")
    prefix = f"/proxy/s/{port}"
    assert answer.headers.get_list("set-cookie") == [
        f"a=1; HttpOnly; Path={prefix}/in",
        f"b=2; Path={prefix}/",
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"a=1", b"a=1; Path=/p/"),
        (b"a=1; path=/; PATH=/x; Secure", b"a=1; Secure; Path=/p/x"),
        (b"a=1; Path=relative", b"a=1; Path=/p/"),
        (b"a=1;domain=.era.test;Max-Age=1", b"a=1;Max-Age=1; Path=/p/"),
        (b"a=x=y; Path=", b"a=x=y; Path=/p/"),
    ],
)
def test_where_a_cookie_goes(given: bytes, kept: bytes) -> None:
    assert own_cookie(given, b"/p") == kept


async def test_an_answer_has_its_own_cors_headers(world: World) -> None:
    async with world.running(ECHO) as port:
        answer = await world.ask("GET", f"/proxy/s/{port}/")
        assert answer.headers.get_list("access-control-allow-origin") == ["https://own.example"]
        assert "access-control-expose-headers" not in answer.headers
        preflight = await world.ask("OPTIONS", f"/proxy/s/{port}/")
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
            204,
            "*",
        )
    ours = await world.ask("GET", f"/proxy/none/{port}/")
    assert ours.headers["access-control-allow-origin"] == "*"


async def test_bodies_stream_both_ways(world: World) -> None:
    """Each piece comes through before the next is sent."""
    serve = r"""
before, _, rest = head(client)
client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
while True:
    piece = rest or client.recv(65536)
    rest = b""
    if not piece:
        break
    for line in piece.split(b"\r\n"):
        if line.startswith(b"say"):
            client.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        if line == b"0":
            client.sendall(b"0\r\n\r\n")
            break
"""
    async with world.raw(serve) as port, connection(world.port) as (reader, writer):
        head = f"POST /proxy/s/{port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        for number in range(5):
            said = b"say %d" % number
            writer.write(b"%x\r\n%s\r\n" % (len(said), said))
            await asyncio.wait_for(reader.readuntil(said), 60)
        writer.write(b"0\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)


async def test_a_large_body_passes_whole(world: World) -> None:
    serve = r"""
before, _, rest = head(client)
client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + rest)
while piece := client.recv(65536):
    client.sendall(piece)
    if piece.endswith(b"end"):
        break
"""
    body = b"0123456789abcdef" * (1 << 18) + b"end"
    async with world.raw(serve) as port:
        answer = await world.ask("POST", f"/proxy/s/{port}/", body)
    assert answer.content == body


async def test_a_websocket(world: World) -> None:
    serve = r"""
before, _, rest = head(client)
assert b"upgrade: websocket" in before.lower() and b"connection: upgrade" in before.lower()
assert b"sec-websocket-key: k" in before.lower()
answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
client.sendall(answer + b"Sec-WebSocket-Accept: a\r\nSet-Cookie: c=1\r\n\r\nfirst")
while piece := rest or client.recv(65536):
    rest = b""
    client.sendall(piece[::-1])
    if piece == b"bye":
        break
"""
    async with world.raw(serve) as port, connection(world.port) as (reader, writer):
        upgrade = {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"}
        writer.write(request("GET", f"/proxy/s/{port}/ws", b"", Sec_WebSocket_Key="k", **upgrade))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: a\r\n" in head.lower()
        assert f"path=/proxy/s/{port}/".encode() in head.lower()
        assert await asyncio.wait_for(reader.readexactly(5), 60) == b"first"
        for said in (b"\x81\x00\xff", b"x" * 5000, b"bye"):
            writer.write(said)
            assert await asyncio.wait_for(reader.readexactly(len(said)), 60) == said[::-1]
        assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_a_refused_websocket_is_an_answer(world: World) -> None:
    async with world.running(ECHO) as port, connection(world.port) as (reader, writer):
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        writer.write(request("GET", f"/proxy/s/{port}/ws", b"", **upgrade))
        answer = await asyncio.wait_for(read_answer(reader), 60)
        assert (answer.status, answer.json()["target"]) == (201, "/ws")
        assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_a_client_that_leaves_its_websocket(world: World) -> None:
    serve = r"""
head(client)
client.sendall(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
while client.recv(65536):
    pass
open("left", "w").close()
"""
    async with world.raw(serve) as port:
        async with connection(world.port) as (reader, writer):
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
            writer.write(request("GET", f"/proxy/s/{port}/", b"", **upgrade))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        await left(world)


async def left(world: World) -> None:
    """Wait until the server in the run has seen that its client is gone."""
    (box,) = world.sessions._parts.driver.boxes  # type: ignore[attr-defined]
    while not os.path.exists(box.path("/workspace") + "/left"):
        await asyncio.sleep(0.02)


async def test_a_client_that_leaves_before_the_answer(world: World) -> None:
    serve = r"""
head(client)
while client.recv(65536):
    pass
open("left", "w").close()
"""
    async with world.raw(serve) as port:
        async with connection(world.port) as (_reader, writer):
            writer.write(request("GET", f"/proxy/s/{port}/"))
            await writer.drain()
            while not world.sessions._runs.registry.all()[0].box:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
        await left(world)


# --- who may ask ---------------------------------------------------------------------------------


async def test_who_may_ask(open_world: Callable[..., Any]) -> None:
    world: World = await open_world(api_keys=(KEY, "another"))
    await world.make(allowPublicAccess=False)
    async with world.running(ECHO) as port:
        target = f"/proxy/s/{port}/"

        async def ask(**headers: str) -> RawAnswer:
            return await exchange(world.port, request("GET", target, b"", **headers))

        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            refused = await ask(**headers)
            assert (refused.status, refused.json()["code"]) == (403, "public_access_disabled")
            assert refused.json()["error"] == "public access disabled for this session"
            assert "allowPublicAccess" in refused.json()["hint"]
        for key in (KEY, "another"):
            answer = await ask(Authorization=f"Bearer {key}")
            assert answer.status == 201
            assert "authorization" not in headers_of(answer.json())
            assert key.encode() not in answer.body
        await world.client.patch("/api/sessions/s", json={"allowPublicAccess": True})
        assert (await ask()).status == 201
        own = await ask(Authorization="Bearer of-the-server-inside")
        assert headers_of(own.json())["authorization"] == "Bearer of-the-server-inside"
        assert KEY.encode() not in (await ask(Authorization=f"Bearer {KEY}")).body


async def test_without_any_key_only_public_sessions_answer(world: World) -> None:
    await world.client.patch("/api/sessions/s", json={"allowPublicAccess": False})
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x"}):
        answer = await world.ask("GET", "/proxy/s/8000/", b"", **headers)
        assert answer.status_code == 403


# --- what has no answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/proxy/", 400, "invalid_proxy_path"),
        ("/proxy/s", 400, "invalid_proxy_path"),
        ("/proxy/s/", 400, "invalid_proxy_path"),
        ("/proxy/s/http", 400, "invalid_proxy_path"),
        ("/proxy/s/80x/", 400, "invalid_proxy_path"),
        ("/proxy/s/-1/", 400, "invalid_proxy_path"),
        ("/proxy//80/", 400, "invalid_proxy_path"),
        ("/proxy/s/%38%30/", 400, "invalid_proxy_path"),
        ("/proxy/s/0/", 400, "invalid_port"),
        ("/proxy/s/65536/", 400, "invalid_port"),
        (f"/proxy/s/{'9' * 5000}/", 400, "invalid_port"),
        ("/proxy/none/80/", 404, "session_not_found"),
        ("/proxy/%2e%2e/80/", 404, "session_not_found"),
        ("/proxy/a%2Fb/80/", 404, "session_not_found"),
        ("/proxy/s/80/", 400, "no_code"),
    ],
)
async def test_what_is_refused(world: World, target: str, status: int, code: str) -> None:
    answer = await exchange(world.port, request("GET", target))
    assert (answer.status, answer.json()["code"]) == (status, code)
    if code == "invalid_proxy_path":
        assert answer.json()["format"] == "/proxy/{session_id}/{port}/{path}"
    if code == "no_code":
        assert answer.json()["error"] == "No code stored in session"
        assert "PUT" in answer.json()["hint"]


async def test_nobody_listens(world: World) -> None:
    async with world.running(ECHO) as port:
        answer = await world.ask("GET", "/proxy/s/1/")
        assert (answer.status_code, answer.json()["code"]) == (502, "no_server")
        assert answer.json()["error"] == "no server is listening on port 1"
        assert (await world.ask("GET", f"/proxy/s/{port}/")).status_code == 201


async def test_a_server_that_is_slow_to_listen(world: World) -> None:
    code = "import time; print(0, flush=True); time.sleep(0.6)\n" + ECHO.replace(
        "print(server.server_address[1], flush=True)", "pass"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    code = code.replace('("127.0.0.1", 0)', f'("127.0.0.1", {number})')
    async with world.running(code):
        assert (await world.ask("GET", f"/proxy/s/{number}/")).status_code == 201


@pytest.mark.parametrize(
    "said",
    [
        "",
        "hello\\r\\n\\r\\n",
        "HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nContent-Length: 6\\r\\n\\r\\nhello",
        "HTTP/1.1 200 OK\\r\\nTransfer-Encoding: gzip\\r\\n\\r\\n",
        "HTTP/1.1 999 Odd\\r\\nContent-Length: 0\\r\\n\\r\\n",
        "HTTP/1.1 101 Odd\\r\\n\\r\\n",
        "HTTP/1.1 200 OK\\r\\nX: a\\0b\\r\\n\\r\\n",
    ],
)
async def test_what_is_no_proper_answer(world: World, said: str) -> None:
    async with world.raw(f'head(client); client.sendall(b"{said}")') as port:
        answer = await world.ask("GET", f"/proxy/s/{port}/")
        assert (answer.status_code, answer.json()["code"]) == (502, "no_server")
        assert answer.json()["message"]
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_head_without_end(world: World) -> None:
    """What a server in a box may say before its headers end is bounded."""
    serve = r"""
head(client)
client.sendall(b"HTTP/1.1 200 OK\r\n")
for number in range(1 << 20):
    client.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
"""
    async with world.raw(serve) as port:
        answer = await world.ask("GET", f"/proxy/s/{port}/")
        assert (answer.status_code, answer.json()["code"]) == (502, "no_server")


@pytest.mark.parametrize(
    "framing", ["Content-Length: 100", "Transfer-Encoding: chunked"], ids=["length", "chunks"]
)
async def test_an_answer_that_breaks_off_is_cut(world: World, framing: str) -> None:
    said = f"HTTP/1.1 200 OK\\r\\n{framing}\\r\\n\\r\\n5\\r\\nhello\\r\\n"
    async with world.raw(f'head(client); client.sendall(b"{said}")') as port:
        async with connection(world.port) as (reader, writer):
            writer.write(request("GET", f"/proxy/s/{port}/"))
            raw = await asyncio.wait_for(reader.read(), 60)
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"hello" in body
        assert not body.endswith(b"0\r\n\r\n")


async def test_answers_are_not_split(world: World) -> None:
    """What a server says after its answer belongs to nobody."""
    said = "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nokHTTP/1.1 200 OK\\r\\nX: forged\\r\\n\\r\\n"
    serve = f'head(client); client.sendall(b"{said}")'
    async with world.raw(serve) as port, connection(world.port) as (reader, writer):
        for _ in range(2):
            writer.write(request("GET", f"/proxy/s/{port}/"))
            answer = await asyncio.wait_for(read_answer(reader), 60)
            assert (answer.status, answer.body) == (200, b"ok")
            assert "x" not in answer.headers


async def test_requests_are_not_smuggled(world: World) -> None:
    """Whatever frames a body twice is refused before anything is passed on."""
    serve = r"""
before, _, rest = head(client)
client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + str(before.count(b"HTTP/1.1")).encode())
"""
    both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    smuggled = b"0\r\n\r\nGET /proxy/s/1/ HTTP/1.1\r\nHost: x\r\n\r\n"
    async with world.raw(serve) as port:
        for framing in (
            both,
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding : chunked\r\n",
        ):
            head = f"POST /proxy/s/{port}/ HTTP/1.1\r\nHost: x\r\n{framing}\r\n".encode()
            async with connection(world.port) as (reader, writer):
                writer.write(head + smuggled)
                answer = await asyncio.wait_for(read_answer(reader), 60)
                assert answer.status == 400, framing
                assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_a_request_that_is_no_http_for_the_other_side(world: World) -> None:
    async with world.running(ECHO) as port:
        head = f"GET /proxy/s/{port}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".encode()
        answer = await exchange(world.port, head)
        assert (answer.status, answer.json()["code"]) == (400, "invalid_body")


async def test_more_than_may_be_on_their_way(open_world: Callable[..., Any]) -> None:
    world: World = await open_world(places=Places(limit=3, of_session=2))
    await world.make()
    await world.make("t")
    async with world.raw("head(client); client.recv(1)") as port:
        held = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(2)]
        for _reader, writer in held:
            writer.write(request("GET", f"/proxy/s/{port}/"))
        while (await world.ask("GET", "/proxy/s/1/")).json()["code"] != "server_busy":
            await asyncio.sleep(0.02)
        refused = await world.ask("GET", f"/proxy/s/{port}/")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await world.ask("GET", "/proxy/t/1/")).json()["code"] == "no_code"
        for _reader, writer in held:
            writer.close()
        while (await world.ask("GET", "/proxy/s/1/")).json()["code"] == "server_busy":
            await asyncio.sleep(0.02)


def test_places() -> None:
    places = Places(limit=2, of_session=1)
    with places.taken("a"):
        with pytest.raises(BusyError), places.taken("a"):
            pass
        with places.taken("b"), pytest.raises(BusyError), places.taken("c"):
            pass
    with places.taken("a"), places.taken("c"):
        assert json.dumps(sorted(places._taken)) == '["a", "c"]'
    assert not places._taken
