"""The door alone: keys, origins, request ids, refusals, the boundary of errors."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from era import logs
from era.api.door import Door
from era.api.options import Options
from era.api.routing import canonical_path

pytestmark = pytest.mark.anyio


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    """Behind the door: says what path came through, or breaks."""
    if scope["path"] == "/break":
        raise RuntimeError("secret words")
    if scope["path"] == "/break-late":
        await StreamingResponse(late())(scope, receive, send)
    else:
        await Response(scope["path"].encode())(scope, receive, send)


async def late() -> AsyncIterator[bytes]:
    yield b"begun"
    raise RuntimeError("secret words")


Ask = Callable[..., Any]


def client(app: ASGIApp = inside, **options: Any) -> httpx2.AsyncClient:
    door = Door(app, Options(clock=lambda: 0, **options))
    transport = httpx2.ASGITransport(door, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://era.test")


@pytest.fixture
def log() -> Any:
    """What is logged, as parsed lines."""
    stream = io.StringIO()
    logs.configure("info")
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(stream))
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


async def test_every_answer_has_an_id_and_cors() -> None:
    async with client() as http:
        answer = await http.get("/x")
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"]
    assert exposed == "Retry-After, X-Request-Id, ETag, Location"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ('a"b', False)],
)
async def test_the_id_of_the_client_is_kept_when_sane(given: str, kept: bool) -> None:
    async with client() as http:
        answer = await http.get("/x", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://a.test", "https://a.test"), ("https://b.test", None), (None, None)],
)
async def test_listed_origins(origin: str | None, allowed: str | None) -> None:
    async with client(cors_origins=("https://a.test",)) as http:
        answer = await http.get("/x", headers={"Origin": origin} if origin else {})
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


async def test_preflight_needs_no_key_and_echoes_what_is_asked_for() -> None:
    async with client(api_keys=("k",)) as http:
        plain = await http.options("/anything/at/all")
        asked = await http.options("/x", headers={"Access-Control-Request-Headers": "X-A, X-B"})
    assert (plain.status_code, plain.content) == (204, b"")
    methods = plain.headers["access-control-allow-methods"]
    assert methods == "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
    assert plain.headers["access-control-allow-headers"] == "Content-Type, Authorization"
    assert plain.headers["access-control-max-age"] == "86400"
    assert asked.headers["access-control-allow-headers"] == "X-A, X-B"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer one", 200),
        ("Bearer two", 200),
        ("bearer one", 200),
        ("Bearer onex", 401),
        ("Bearer ", 401),
        ("one", 401),
        ("Basic one", 401),
    ],
)
async def test_keys(authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client(api_keys=("one", "two")) as http:
        answer = await http.get("/x", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["code"] == answer.json()["error"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/health", 200),
        ("GET", "/health", 200),
        ("POST", "/health", 401),
        ("GET", "/healthy", 401),
        ("GET", "/%68ealth", 200),
        ("GET", "/proxy/s/1/", 200),
        ("GET", "/proxy", 401),
        ("GET", "/health%2f", 401),
    ],
)
async def test_what_is_open_without_a_key(method: str, path: str, status: int) -> None:
    async with client(api_keys=("k",)) as http:
        assert (await http.request(method, path)).status_code == status


async def test_a_server_that_stops_refuses() -> None:
    async with client(stopping=lambda: True) as http:
        answer = await http.get("/x")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert answer.json()["error"] == "server is shutting down"
    assert answer.headers["retry-after"] == "1"


async def test_what_breaks_is_logged_and_told_to_nobody(log: Ask) -> None:
    async with client() as http:
        answer = await http.get("/break", headers={"X-Request-Id": "r1"})
    assert answer.status_code == 500
    assert answer.json()["error"] == "internal error"
    assert "secret" not in answer.text
    failure = next(line for line in log() if line["event"] == "request failed")
    assert (failure["request_id"], failure["exception"]) == ("r1", "RuntimeError")


async def test_a_broken_answer_is_not_completed(log: Ask) -> None:
    sent: list[str] = []

    async def spy(scope: Scope, receive: Receive, send: Send) -> None:
        async def out(message: Any) -> None:
            sent.append(f"{message['type']} {message.get('more_body')}")
            await send(message)

        await Door(inside, Options(clock=lambda: 0))(scope, receive, out)

    transport = httpx2.ASGITransport(spy, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://era.test") as http:
        with pytest.raises(AssertionError):  # the transport insists on a complete answer
            await http.get("/break-late")
    assert sent == ["http.response.start None", "http.response.body True"]
    assert log()[0]["event"] == "request failed"


async def test_one_line_for_each_request(log: Ask) -> None:
    async with client() as http:
        await http.get(
            "/x?code=secret", headers={"X-Request-Id": "r2", "Authorization": "Bearer s"}
        )
    (line,) = log()
    assert (line["request_id"], line["method"], line["status"]) == ("r2", "GET", 200)
    assert line["ms"] >= 0
    assert "secret" not in json.dumps(line)


async def test_head_has_no_body() -> None:
    async with client() as http:
        answer = await http.head("/x")
    assert answer.content == b""
    assert answer.headers["content-length"] == "2"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/health", "/health"),
        (b"/%68ealth", "/health"),
        (b"/a%2fb", "/a%2Fb"),
        (b"/a%252e", "/a%252e"),
        (b"/a#b?c d", "/a#b?c d"),
        (b"/\xc3\xa9", "/%C3%A9"),
        (b"/%ff", "/%FF"),
        (b"/api/sessions/", "/api/sessions"),
        (b"/api/sessions/s/files/", "/api/sessions/s/files/"),
        (b"/api/sessions/s/files/d/", "/api/sessions/s/files/d/"),
        (b"/proxy/s/80/", "/proxy/s/80/"),
        (b"/", "/"),
    ],
)
def test_canonical_paths(raw: bytes, path: str) -> None:
    assert canonical_path(raw) == path
