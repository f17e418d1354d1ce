"""Sessions through the whole application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from era.api import answers_schema as schema

pytestmark = pytest.mark.anyio


async def create(api: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await api.post("/api/sessions", json={"language": "python", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_new_session(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/sessions", json={"language": "PY", "more": 1, "data": [1]})
    assert answer.status_code == 201
    session = answer.json()
    schema.Session.model_validate(session)
    assert re.fullmatch(r"sess_\d{13}_[0-9a-z]{9}", session["id"])
    assert session["session_id"] == session["id"]
    assert answer.headers["location"] == f"/api/sessions/{session['id']}"
    assert (session["language"], session["persistent"], session["data"]) == ("python", True, [1])
    assert (session["last_run_at"], session["file_count"], session["metadata"]) == ("", 0, {})
    assert session["warnings"] == ["unknown field ignored: more"]
    assert not any("error" in name for name in session)
    assert "default_timeout" not in session
    assert "setup_status" not in session
    assert (await api.get(answer.headers["location"])).json()["id"] == session["id"]


async def test_an_id_can_be_taken_once(api: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(api.post("/api/sessions", json={"id": "x", "language": "go"}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert (refused["error"], refused["code"]) == ("session id already exists", "session_exists")
    assert refused["id"] == "x"


async def test_a_setup_that_is_refused_creates_nothing(api: httpx2.AsyncClient) -> None:
    wrong: list[Any] = [{"pip": ["--index-url=x"]}, {"pip": "numpy"}, [], {"commands": [1]}]
    for setup in wrong:
        answer = await api.post(
            "/api/sessions", json={"id": "x", "language": "python", "setup": setup}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_setup")
    assert (await api.get("/api/sessions/x")).status_code == 404


async def test_a_setup_with_nothing_in_it_is_complete(api: httpx2.AsyncClient) -> None:
    session = await create(api, id="x", setup={"pipp": []})
    assert session["warnings"] == ["unknown field ignored: setup.pipp"]
    assert session["setup_status"] == "completed"
    assert session["setup_result"]["success"] is True
    setup = (await api.get("/api/sessions/x/setup")).json()
    schema.Setup.model_validate(setup)
    assert setup["setup_status"] == "completed"


async def test_variables_of_a_setup_are_never_shown(api: httpx2.AsyncClient) -> None:
    setup = {"commands": ["true"], "envs": {"TOKEN": "hunter2"}}
    answer = await api.post("/api/sessions", json={"id": "x", "language": "python", "setup": setup})
    assert answer.json()["setup"]["envs"] == {"TOKEN": "***"}
    for path in ("/api/sessions/x", "/api/sessions", "/api/sessions/x/setup"):
        assert "hunter2" not in (await api.get(path)).text


async def test_no_setup_is_404(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    for method in ("GET", "POST"):
        answer = await api.request(method, "/api/sessions/x/setup")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        answer = await api.request(method, "/api/sessions/none/setup")
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


async def test_a_setup_asked_for_later(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    answer = await api.post("/api/sessions/x/setup", json={"setup": {"commands": ["exit 3"]}})
    assert answer.status_code == 202
    schema.Session.model_validate(answer.json())
    assert answer.json()["setup_status"] == "pending"
    refused = await api.post("/api/sessions/x/setup", json={"setup": {"commands": ["true"]}})
    if refused.status_code == 409:  # else it has already finished
        assert refused.json()["error"] == "session setup is not finished"
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["setup_status"] in ("pending", "running")


async def test_the_list(api: httpx2.AsyncClient) -> None:
    empty = await api.get("/api/sessions")
    assert empty.text == '{"sessions":[],"count":0,"total_count":0}'
    for name in ("b1", "a1", "b2"):
        await create(api, id=name, metadata={"name": name})
    listed = (await api.get("/api/sessions")).json()
    schema.SessionList.model_validate(listed)
    assert [session["id"] for session in listed["sessions"]] == ["b1", "a1", "b2"]
    assert "data" not in listed["sessions"][0]
    some = (await api.get("/api/sessions?prefix=b")).json()
    assert (some["count"], some["total_count"]) == (2, 2)


async def test_pages_give_each_session_once(api: httpx2.AsyncClient) -> None:
    wanted = [f"s{n}" for n in range(7)]
    for name in wanted:
        await create(api, id=name)
    found, cursor = [], ""
    while True:
        page = (await api.get(f"/api/sessions?limit=3&cursor={cursor}")).json()
        assert page["total_count"] == 7
        found += [session["id"] for session in page["sessions"]]
        if "next_cursor" not in page:
            break
        cursor = page["next_cursor"]
    assert found == wanted


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.0", "1" * 30, "%d9%a1"])
@pytest.mark.parametrize("path", ["/api/sessions", "/api/sessions/x/files"])
async def test_limits_of_a_page(api: httpx2.AsyncClient, path: str, limit: str) -> None:
    await create(api, id="x")
    answer = await api.get(f"{path}?limit={limit}")
    assert answer.status_code == 400
    assert answer.json()["error"] == "limit must be an integer from 1 to 1000"


async def test_a_made_up_cursor(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/api/sessions?cursor=nonsense")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_field")


async def test_changes(api: httpx2.AsyncClient) -> None:
    await create(api, id="x", metadata={"a": 1}, data={"b": 2})
    answer = await api.patch(
        "/api/sessions/x",
        json={"default_timeout": 2.5, "allowPublicAccess": True, "data": [3], "metadata": {}},
    )
    assert answer.status_code == 200
    changed = answer.json()
    schema.Patched.model_validate(changed)
    assert (changed["success"], changed["id"], changed["session_id"]) == (True, "x", "x")
    session = changed["metadata"]
    assert (session["default_timeout"], session["allowPublicAccess"]) == (2.5, True)
    assert (session["data"], session["metadata"]) == ([3], {})
    assert changed["updated_at"] == session["updated_at"]
    unset = await api.patch("/api/sessions/x", content=b'{"default_timeout":null}')
    assert "default_timeout" not in unset.json()["metadata"]
    assert unset.json()["metadata"]["data"] == [3]


async def test_a_refused_change_changes_nothing(api: httpx2.AsyncClient) -> None:
    before = await create(api, id="x")
    for body in ({"data": 1, "id": "y"}, {"data": 1, "default_timeout": 0}, {}, {"x": 1}):
        assert (await api.patch("/api/sessions/x", json=body)).status_code == 400
    after = (await api.get("/api/sessions/x")).json()
    assert after == before
    assert (await api.patch("/api/sessions/none", json={"data": 1})).status_code == 404
    assert (await api.get("/api/sessions/none")).status_code == 404


async def test_deleting(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    answer = await api.delete("/api/sessions/x")
    assert answer.status_code == 200
    deleted = answer.json()
    schema.DeletedSession.model_validate(deleted)
    assert (deleted["deleted"], deleted["success"], deleted["id"]) == ("x", True, "x")
    for answer in (await api.delete("/api/sessions/x"), await api.get("/api/sessions/x")):
        assert (answer.status_code, answer.json()["error"]) == (404, "Session not found")
    assert (await create(api, id="x"))["file_count"] == 0


async def test_deleting_all_or_some(api: httpx2.AsyncClient) -> None:
    for name in ("a1", "b1", "a2"):
        await create(api, id=name)
    some = (await api.delete("/api/sessions?prefix=a")).json()
    schema.DeletedSessions.model_validate(some)
    assert (some["success"], some["deleted_count"]) == (True, 2)
    assert sorted(some["deleted_sessions"]) == ["a1", "a2"]
    assert (await api.delete("/api/sessions")).json()["deleted_sessions"] == ["b1"]
    assert (await api.get("/api/sessions")).json()["total_count"] == 0


async def test_a_copy(api: httpx2.AsyncClient) -> None:
    await create(api, id="x", data={"n": 1}, metadata={"m": 1}, default_timeout=9)
    await api.put("/api/sessions/x/files/f", content=b"bytes")
    answer = await api.post("/api/sessions/x/duplicate", json={"new_id": "y", "data": {"n": 2}})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/api/sessions/y"
    copy = answer.json()
    schema.Session.model_validate(copy)
    assert (copy["source_session_id"], copy["data"], copy["metadata"]) == ("x", {"n": 2}, {"m": 1})
    assert (copy["default_timeout"], copy["file_count"]) == (9, 1)
    assert (await api.get("/api/sessions/y/files/f")).content == b"bytes"
    generated = await api.post("/api/sessions/x/duplicate")
    assert re.fullmatch(r"x-copy-\d{13}", generated.json()["id"])


async def test_copies_refused(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    for target in ("/api/sessions/none/duplicate", "/api/sessions/a.b/duplicate"):
        answer = await api.post(target)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
        assert answer.json()["error"] == "source session not found"
    taken = await api.post("/api/sessions/x/duplicate", json={"id": "x"})
    assert (taken.status_code, taken.json()["code"]) == (409, "session_exists")
    assert taken.json()["error"] == "new session id already exists"
    assert taken.json()["id"] == "x"


async def test_where_servers_are_reached(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    answer = (await api.get("/api/sessions/x/host?port=8000")).json()
    schema.Host.model_validate(answer)
    hint = answer.pop("hint")
    assert '{"allowPublicAccess": true}' in hint
    assert answer == {
        "url": "http://era.test/proxy/x/8000",
        "base_url": "http://era.test",
        "session_id": "x",
        "port": 8000,
        "public": False,
    }
    await api.patch("/api/sessions/x", json={"allowPublicAccess": True})
    public = (await api.get("/api/sessions/x/host?port=1")).json()
    assert public["public"] is True
    assert "hint" not in public


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "port_required"),
        ("?port=", "port_required"),
        ("?port=0", "invalid_port"),
        ("?port=65536", "invalid_port"),
        ("?port=-1", "invalid_port"),
        ("?port=8e3", "invalid_port"),
        ("?port=" + "9" * 5000, "invalid_port"),
    ],
)
async def test_ports_refused(api: httpx2.AsyncClient, query: str, code: str) -> None:
    await create(api, id="x")
    answer = await api.get(f"/api/sessions/x/host{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    if code == "port_required":
        assert answer.json()["usage"] == "/api/sessions/{id}/host?port=8000"


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({}, "http://era.test"),
        ({"trust_proxy": True}, "https://front.test"),
        ({"public_url": "https://public.test/"}, "https://public.test"),
    ],
)
async def test_the_base_of_addresses(
    connect: Callable[..., Any], options: dict[str, Any], base: str
) -> None:
    api = await connect(**options)
    await create(api, id="x")
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "front.test, other.test"}
    answer = await api.get("/api/sessions/x/host?port=1", headers=forwarded)
    assert answer.json()["base_url"] == base


async def test_stored_code(api: httpx2.AsyncClient) -> None:
    await create(api, id="x")
    missing = await api.get("/api/sessions/x/code")
    assert (missing.status_code, missing.json()["code"]) == (404, "code_not_found")
    assert missing.json()["error"] == "no code stored"
    assert missing.json()["hint"]
    put = await api.put("/api/sessions/x/code", json={"code": "print('é𝄞')", "description": "d"})
    schema.StoredCodeReceipt.model_validate(put.json())
    assert (put.json()["code_length"], put.json()["session_id"]) == (11, "x")
    await api.put("/api/sessions/x/code", json={"code": "1"})
    code = (await api.get("/api/sessions/x/code")).json()
    schema.StoredCode.model_validate(code)
    assert (code["code"], code["description"], code["code_length"]) == ("1", "d", 1)
    assert (await api.get("/api/sessions/x")).json()["has_code"] is True
    assert (await api.delete("/api/sessions/x/code")).json() == {"deleted": "code"}
    assert (await api.delete("/api/sessions/x/code")).status_code == 404
    refused = await api.put("/api/sessions/x/code", json={})
    assert (refused.status_code, refused.json()["error"]) == (400, "code field required")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_code_of_no_session(api: httpx2.AsyncClient, method: str) -> None:
    content = b'{"code":"1"}' if method == "PUT" else None
    answer = await api.request(method, "/api/sessions/none/code", content=content)
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


async def test_a_service_that_closes_refuses_new_work(
    api: httpx2.AsyncClient, sessions: Any
) -> None:
    await sessions.close(0)
    for path, body in (
        ("/api/execute", {"language": "python", "code": "1"}),
        ("/api/sessions", {"language": "python"}),
    ):
        answer = await api.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) >= 1
