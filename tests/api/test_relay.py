"""Stored code as the answer to a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from era.api import relay
from era.api.options import Bounds
from era.models import RunResult, Usage
from era.sessions import inward
from era.sessions.service import Sessions

TELL = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("ERA_")}
told["stdin"] = sys.stdin.read()
try:
    told["file"] = open(os.environ["ERA_HTTP_BODY_FILE"], "rb").read().decode("latin-1")
except FileNotFoundError:
    told["file"] = None
told["listed"] = sorted(name for name in os.listdir() if not name.startswith(".era"))
print(json.dumps({"body": told}))
"""


@pytest.fixture
async def api(api: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client, and a public session `s`."""
    await api.post(
        "/api/sessions", json={"id": "s", "language": "python", "allowPublicAccess": True}
    )
    return api


async def stored(api: httpx2.AsyncClient, code: str) -> None:
    answer = await api.put("/api/sessions/s/code", json={"code": code})
    assert answer.status_code == 200, answer.text


async def answered(api: httpx2.AsyncClient, code: str) -> httpx2.Response:
    await stored(api, code)
    return await api.get("/proxy/s/8000/")


@pytest.mark.anyio
async def test_what_stored_code_is_told(api: httpx2.AsyncClient) -> None:
    await stored(api, TELL)
    answer = await api.post(
        "/proxy/s/8000/a%20b/c?x=%C3%A9&y",
        content="é body",
        headers=[("X-Two", "1"), ("X-Two", "2"), ("Cookie", "a=1"), ("Content-Type", "text/x")],
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-era-exit-code"] == "0"
    assert answer.headers["x-era-run-id"].startswith("run_")
    assert answer.headers["access-control-allow-origin"] == "*"
    told = answer.json()
    assert told["ERA_REQUEST_MODE"] == "proxy"
    assert (told["ERA_HTTP_METHOD"], told["ERA_HTTP_PATH"]) == ("POST", "/a%20b/c")
    assert told["ERA_HTTP_QUERY"] == "?x=%C3%A9&y"
    assert told["ERA_HTTP_BODY"] == "é body"
    assert told["file"].encode("latin-1").decode() == "é body"
    assert not told["ERA_HTTP_BODY_FILE"].startswith("/workspace")
    headers = json.loads(told["ERA_HTTP_HEADERS"])
    assert headers["x-two"] == "1, 2"
    assert headers["content-type"] == "text/x"
    assert headers["x-forwarded-prefix"] == "/proxy/s/8000"
    assert all(name == name.lower() for name in headers)
    assert told["ERA_SESSION_ID"] == "s"
    assert told["ERA_PROXY_URL"] == "http://era.test/proxy/s"
    assert told["stdin"] == ""
    assert told["listed"] == [".session_data.json"]


@pytest.mark.anyio
async def test_without_body_and_query(api: httpx2.AsyncClient) -> None:
    told = (await answered(api, TELL)).json()
    assert (told["ERA_HTTP_PATH"], told["ERA_HTTP_QUERY"]) == ("/", "")
    assert told["ERA_HTTP_BODY"] == ""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "inline"),
    [
        (b"x" * 65536, True),
        (b"x" * 65537, False),
        (b"\xff\xfe", False),
        (b"a\0b", False),
        ("é𝄞".encode(), True),
    ],
)
async def test_the_body_as_variable_and_file(
    api: httpx2.AsyncClient, body: bytes, inline: bool
) -> None:
    await stored(api, TELL)
    told = (await api.put("/proxy/s/1/", content=body)).json()
    assert told["ERA_HTTP_BODY"] == (body.decode() if inline else "")
    assert told["file"].encode("latin-1") == body


@pytest.mark.anyio
async def test_a_plain_run_is_told_of_no_request(api: httpx2.AsyncClient) -> None:
    await stored(
        api, TELL.replace("os.environ[", "os.environ.get(").replace('FILE"]', 'FILE", "x")')
    )
    told = json.loads((await api.post("/api/sessions/s/run")).json()["stdout"])["body"]
    assert not [name for name in told if "HTTP" in name or "REQUEST" in name]


@pytest.mark.anyio
async def test_the_key_is_for_nobody(connect: Callable[..., Any]) -> None:
    api = await connect(api_keys=("secret-key",))
    headers = {"Authorization": "Bearer secret-key"}
    await api.post("/api/sessions", json={"id": "s", "language": "python"}, headers=headers)
    await api.put("/api/sessions/s/code", json={"code": TELL}, headers=headers)
    assert (await api.get("/proxy/s/1/")).status_code == 403
    answer = await api.get("/proxy/s/1/", headers=headers)
    assert answer.status_code == 200
    assert "authorization" not in answer.text
    assert "secret-key" not in answer.text


def ended(stdout: str, exit_code: int = 0) -> RunResult:
    """A run that came to that."""
    return RunResult(
        run_id="run_1_a",
        vm_id="python-1",
        language="python",
        isolation="process",
        exit_code=exit_code,
        stdout=stdout,
        stderr="",
        duration_ns=1,
        usage=Usage(),
        queued_ms=0,
    )


JSON_ = "application/json"
TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("said", "status", "media_type", "body"),
    [
        ("hello", 200, TEXT, b"hello\n"),
        ("", 200, TEXT, b"\n"),
        ('{"a": 1}', 200, JSON_, b'{"a":1}'),
        ("  [1, 2]  ", 200, JSON_, b"[1,2]"),
        ("5", 200, JSON_, b"5"),
        ('"x"', 200, JSON_, b'"x"'),
        ("null", 200, JSON_, b"null"),
        ("NaN", 200, TEXT, b"NaN\n"),
        ('{"a": 1} x', 200, TEXT, b'{"a": 1} x\n'),
        ('{"status": 404, "body": "no"}', 404, JSON_, b"no"),
        ('{"status": 599, "body": "no"}', 599, JSON_, b"no"),
        ('{"status": 199, "body": "no"}', 200, JSON_, b"no"),
        ('{"status": 600, "body": "no"}', 200, JSON_, b"no"),
        ('{"status": "404", "body": "no"}', 200, JSON_, b"no"),
        ('{"status": true, "body": "no"}', 200, JSON_, b"no"),
        ('{"status": 204, "body": "no"}', 204, JSON_, b""),
        ('{"status": 304, "body": "no"}', 304, JSON_, b""),
        ('{"contentType": "text/html", "body": "<p>é"}', 200, "text/html", "<p>é".encode()),
        ('{"contentType": 5, "body": ""}', 200, JSON_, b""),
        ('{"contentType": "a\\r\\nX: 1", "body": ""}', 200, JSON_, b""),
        ('{"body": {"b": [1]}}', 200, JSON_, b'{"b":[1]}'),
        ('{"body": null}', 200, JSON_, b"null"),
        ('{"body": 1}', 200, JSON_, b"1"),
        ('{"body_base64": "AP8=", "body": "x"}', 200, JSON_, b"\x00\xff"),
        ('{"body_base64": "?", "body": "x"}', 200, JSON_, b"x"),
        ('{"body_base64": ""}', 200, JSON_, b""),
        ('{"headers": {"content-type": "text/x"}, "body": ""}', 200, "text/x", b""),
    ],
)
def test_what_becomes_of_the_output(said: str, status: int, media_type: str, body: bytes) -> None:
    answer = relay.answer_of(ended(f"{said}\n"), b"/p")
    assert (answer.status_code, answer.headers["content-type"]) == (status, media_type)
    assert bytes(answer.body) == body
    assert answer.headers["x-era-exit-code"] == "0"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("oops", 500),
        ('{"a": 1}', 500),
        ('{"status": 201}', 201),
        ("[1]", 200),
    ],
)
def test_a_program_that_failed(said: str, status: int) -> None:
    answer = relay.answer_of(ended(said, 3), b"/p")
    assert (answer.status_code, answer.headers["x-era-exit-code"]) == (status, "3")


@pytest.mark.anyio
async def test_headers_of_the_code(api: httpx2.AsyncClient) -> None:
    headers = {
        "X-Mine": " yes ",
        "Location": "/else",
        "Cache-Control": "no-store",
        "Set-Cookie": "a=1; Path=/; Domain=era.test",
        "Content-Length": "999",
        "Transfer-Encoding": "chunked",
        "Connection": "close",
        "Access-Control-Allow-Origin": "https://evil",
        "X-Era-Exit-Code": "9",
        "X-Request-Id": "forged",
        "Clear-Site-Data": "*",
        "X-Bad": "a\nb",
        "Bad Name": "x",
        "X-Number": 5,
        "X-Wide": "日",
    }
    answer = await answered(
        api, f"import json; print(json.dumps({{'headers': {headers!r}, 'body': 'ok'}}))"
    )
    assert answer.text == "ok"
    found = answer.headers
    assert (found["x-mine"], found["location"], found["cache-control"]) == (
        "yes",
        "/else",
        "no-store",
    )
    assert found["set-cookie"] == "a=1; Path=/proxy/s/8000/"
    assert found["content-length"] == "2"
    assert found.get_list("access-control-allow-origin") == ["*"]
    assert found["x-era-exit-code"] == "0"
    assert found["x-request-id"] != "forged"
    gone = {"transfer-encoding", "connection", "clear-site-data", "x-bad", "bad name", "x-number"}
    assert not (gone | {"x-wide"}) & set(found)


@pytest.mark.anyio
async def test_a_relay_is_a_run_of_the_session(api: httpx2.AsyncClient) -> None:
    """In turn with others, its files and data kept."""
    code = (
        "import json\n"
        "data = json.load(open('.session_data.json'))\n"
        "data['n'] = data.get('n', 0) + 1\n"
        "json.dump(data, open('.session_data.json', 'w'))\n"
        "print(data['n'])"
    )
    await stored(api, code)
    answers = await asyncio.gather(*(api.get("/proxy/s/8000/") for _ in range(4)))
    assert sorted(answer.json() for answer in answers) == [1, 2, 3, 4]
    session = (await api.get("/api/sessions/s")).json()
    assert session["data"] == {"n": 4}
    assert session["last_run_at"]


@pytest.mark.anyio
async def test_code_that_takes_too_long(api: httpx2.AsyncClient) -> None:
    await api.patch("/api/sessions/s", json={"default_timeout": 0.5})
    answer = await answered(api, "print('begun', flush=True); import time; time.sleep(600)")
    assert (answer.status_code, answer.json()["code"]) == (504, "relay_timeout")
    assert answer.json()["error"] == "stored code timed out"
    assert answer.headers["x-era-exit-code"] == "124"


@pytest.mark.anyio
async def test_a_turn_that_does_not_come(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(inward, "PATIENCE_SECONDS", 0.1)
    await stored(api, "print(1)")
    code = "import time; time.sleep(600)"
    running = asyncio.ensure_future(
        api.post("/api/sessions/s/run", json={"code": code, "timeout": 600})
    )
    while not (await sessions.get("s")).running:
        await asyncio.sleep(0.02)
    answer = await api.get("/proxy/s/8000/")
    assert (answer.status_code, answer.json()["code"]) == (503, "session_busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await sessions.get("s")).queued_runs == 0
    await sessions.cancel("s")
    await running
    assert (await api.get("/proxy/s/8000/")).json() == 1


@pytest.mark.anyio
async def test_what_is_too_large(connect: Callable[..., Any]) -> None:
    api = await connect(bounds=Bounds(body_bytes=1000))
    await api.post(
        "/api/sessions", json={"id": "s", "language": "python", "allowPublicAccess": True}
    )
    await stored(api, "print(1)")
    assert (await api.post("/proxy/s/1/", content=b"x" * 1000)).status_code == 200
    answer = await api.post("/proxy/s/1/", content=b"x" * 1001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    quotes = '"' * 61_000
    answer = await api.get("/proxy/s/1/", headers={"X-Quotes": quotes})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "headers" in answer.json()["error"]
    assert (await api.get("/proxy/s/1/", headers={"X-Quotes": "x" * 61_000})).status_code == 200


@pytest.mark.anyio
async def test_code_that_is_removed_meanwhile(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(api, "print(1)")
    run = sessions.run

    async def late(*args: Any, **more: Any) -> RunResult:
        await api.delete("/api/sessions/s/code")
        return await run(*args, **more)

    monkeypatch.setattr(sessions, "run", late)
    answer = await api.get("/proxy/s/1/")
    assert (answer.status_code, answer.json()["error"]) == (400, "No code stored in session")


@pytest.mark.anyio
async def test_heads_have_no_body(api: httpx2.AsyncClient) -> None:
    await stored(api, "import os; print(os.environ['ERA_HTTP_METHOD'])")
    answer = await api.head("/proxy/s/8000/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "5"


def test_lone_surrogates_are_no_failure() -> None:
    assert relay.answer_of(ended('{"body": "\\ud800"}'), b"/p").body == b"?"
