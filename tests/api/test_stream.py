"""Streams and cancels through the whole application, events read as a browser reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from era.api import answers_schema as schema
from era.api import stream
from era.errors import InternalError
from era.models import RunRequest, RunResult
from era.sessions.service import Sessions
from tests.api.serving import connection, request, serving

pytestmark = pytest.mark.anyio

Event = tuple[str, dict[str, Any]]


def events(text: str) -> list[Event]:
    """Events by the rules of the standard: blank line ends one, a colon begins a comment."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
async def api(api: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client, and a session `s`."""
    await api.post("/api/sessions", json={"id": "s", "language": "python", "data": {"n": 1}})
    return api


async def streamed(api: httpx2.AsyncClient, **body: Any) -> list[Event]:
    answer = await api.post("/api/sessions/s/stream", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text.endswith("\n\n")
    return events(answer.text)


def joined(found: list[Event], name: str) -> str:
    return "".join(data["content"] for event, data in found if event == name)


async def test_a_stream(api: httpx2.AsyncClient) -> None:
    code = (
        "import sys\n"
        "print('é𝄞\\n\\ndata: forged', flush=True)\n"
        "print('oops', file=sys.stderr)\n"
        "open('f', 'w').close()\n"
        "sys.exit(3)\n"
    )
    found = await streamed(api, code=code, more=1)
    assert joined(found, "stdout") == "é𝄞\n\ndata: forged\n"
    assert joined(found, "stderr") == "oops\n"
    assert {data["type"] == event for event, data in found} == {True}
    name, done = found[-1]
    assert (name, done["type"], done["content"], done["exit_code"]) == ("done", "done", "", 3)
    assert "stdout" not in done
    assert (done["files_modified"], done["data"]) == (["f"], {"n": 1})
    assert done["warnings"] == ["unknown field ignored: more"]
    members = {key: value for key, value in done.items() if key not in ("type", "content")}
    schema.RunResult.model_validate({**members, "stdout": "", "stderr": ""})
    assert [event for event, _ in found].count("done") == 1
    assert (await api.get("/api/sessions/s/files")).json()["count"] == 1


async def test_what_is_refused_before_is_no_stream(api: httpx2.AsyncClient) -> None:
    for target, body, status in (
        ("/api/sessions/none/stream", {"code": "1"}, 404),
        ("/api/sessions/s/stream", {}, 400),
        ("/api/sessions/s/stream", {"code": "1", "timeout": -1}, 400),
        ("/api/sessions/s/stream", {"code": "1", "update_data": {"x": "y" * 140000}}, 413),
    ):
        answer = await api.post(target, json=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"


async def test_a_failure_after_the_beginning_is_an_event(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(
        _id: str, _request: RunRequest, sink: Callable[..., None], accepted: Callable[[], None]
    ) -> RunResult:
        accepted()
        sink("stdout", "begun")
        raise InternalError("execution_failed", "the details are for the log")

    monkeypatch.setattr(sessions, "run", broken)
    found = await streamed(api, code="1")
    assert found == [
        ("stdout", {"type": "stdout", "content": "begun"}),
        (
            "error",
            {
                "type": "error",
                "content": "",
                "error": "Failed to execute code",
                "code": "execution_failed",
            },
        ),
    ]


async def test_silence_is_broken_by_comments(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SILENCE_SECONDS", 0.05)
    answer = await api.post("/api/sessions/s/stream", json={"code": "import time; time.sleep(1)"})
    assert ": ping\n\n" in answer.text
    assert [event for event, _ in events(answer.text)] == ["done"]


@pytest.fixture
async def port(make_app: Callable[..., Any], api: httpx2.AsyncClient) -> AsyncIterator[int]:
    async with serving(make_app()) as port:
        yield port


async def test_output_comes_while_the_program_runs(port: int, sessions: Sessions) -> None:
    code = "print('first', flush=True)\nimport time\nwhile True: time.sleep(0.05)"
    async with connection(port) as (reader, writer):
        writer.write(request("POST", "/api/sessions/s/stream", json.dumps({"code": code}).encode()))
        found = await asyncio.wait_for(reader.readuntil(b'"first'), 30)
        assert b"event: stdout\n" in found
        assert await sessions.cancel("s") is not None
        rest = await asyncio.wait_for(reader.readuntil(b"event: done\n"), 30)
        assert b"error" not in rest


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_reader_that_leaves(port: int, sessions: Sessions, cancel: bool) -> None:
    """The run goes on and is kept, or ends and is kept, as was asked for."""
    code = "print('x', flush=True)\nimport time; time.sleep(1)\nopen('end', 'w').close()"
    body = json.dumps({"code": code, "cancel_on_disconnect": cancel}).encode()
    async with connection(port) as (reader, writer):
        writer.write(request("POST", "/api/sessions/s/stream", body))
        await asyncio.wait_for(reader.readuntil(b"event: stdout"), 30)
    while (await sessions.get("s")).running:
        await asyncio.sleep(0.02)
    view = await sessions.get("s")
    assert view.record.last_run_at_ms is not None
    assert view.record.file_count == (0 if cancel else 1)


async def test_cancelling(api: httpx2.AsyncClient) -> None:
    idle = await api.post("/api/sessions/s/cancel")
    assert (idle.status_code, idle.text) == (200, '{"cancelled":false}')
    assert (await api.post("/api/sessions/none/cancel")).status_code == 404
    code = "open('begun', 'w').close()\nimport time; time.sleep(600)"
    body = {"code": code, "timeout": 600}
    running = asyncio.ensure_future(api.post("/api/sessions/s/run", json=body))
    answer = idle
    while not answer.json()["cancelled"]:
        answer = await api.post("/api/sessions/s/cancel")
        await asyncio.sleep(0.02)
    schema.Cancelled.model_validate(answer.json())
    result = (await running).json()
    assert result["run_id"] == answer.json()["run_id"]
    assert (result["cancelled"], result["timed_out"]) == (True, False)
    assert result["exit_code"] in (143, 137)
