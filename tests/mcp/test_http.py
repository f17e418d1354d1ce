"""JSON-RPC over HTTP as it goes over the wire, without a client of the SDK."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from era import __version__
from era.api.options import Bounds
from era.mcp.schemas import TOOLS
from era.models import NewSession
from era.sessions.service import Sessions

pytestmark = pytest.mark.anyio
Connect = Callable[..., Any]


async def rpc(api: httpx2.AsyncClient, method: str, /, **params: Any) -> dict[str, Any]:
    """One request; its whole answer."""
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    answer = await api.post("/mcp/v1", json=body)
    said = dict(answer.json())
    assert (said["jsonrpc"], said["id"]) == ("2.0", 7)
    return said


async def call(api: httpx2.AsyncClient, tool: str, /, **arguments: Any) -> tuple[bool, str]:
    """Whether a tool failed, and what it said."""
    result = (await rpc(api, "tools/call", name=tool, arguments=arguments))["result"]
    (content,) = result["content"]
    assert content["type"] == "text"
    return bool(result.get("isError")), content["text"]


async def said(api: httpx2.AsyncClient, tool: str, /, **arguments: Any) -> str:
    failed, text = await call(api, tool, **arguments)
    assert not failed, text
    return text


async def error(api: httpx2.AsyncClient, method: str, /, **params: Any) -> tuple[int, str]:
    found = (await rpc(api, method, **params))["error"]
    return found["code"], found["message"]


@pytest.mark.parametrize(
    "version", ["0.1.0", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
)
async def test_versions_are_echoed(api: httpx2.AsyncClient, version: str) -> None:
    client = {"name": "t", "version": "1"}
    asked = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    result = (await rpc(api, "initialize", **asked))["result"]
    assert result["protocolVersion"] == version
    assert result["serverInfo"] == {"name": "era-agent-mcp", "version": __version__}
    assert result["capabilities"].keys() == {"tools", "resources"}
    headers = {"MCP-Protocol-Version": version}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await api.post("/mcp", json=body, headers=headers)
    assert len(answer.json()["result"]["tools"]) == len(TOOLS)


async def test_an_unknown_version_is_answered_with_a_known_one(api: httpx2.AsyncClient) -> None:
    asked = {
        "protocolVersion": "1",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d", (await rpc(api, "initialize", **asked))["result"]["protocolVersion"]
    )


async def test_ping(api: httpx2.AsyncClient) -> None:
    assert (await rpc(api, "ping"))["result"] == {}


async def test_the_tools_are_those_that_are_promised(api: httpx2.AsyncClient) -> None:
    tools = {
        tool["name"]: tool["inputSchema"]
        for tool in (await rpc(api, "tools/list"))["result"]["tools"]
    }
    once = "code timeout allowInternetAccess"
    promised = {
        "era_python": (once, "code"), "era_node": (once, "code"),
        "era_typescript": (once, "code"), "era_deno": (once, "code"),
        "era_shell": ("command session_id timeout", "command"),
        "era_execute_code": ("code language files envs timeout allowInternetAccess", "code language"),
        "era_create_session": (
            "language session_id persistent packages setup allowInternetAccess default_timeout",
            "language",
        ),
        "era_run_in_session": ("session_id code timeout env", "session_id code"),
        "era_list_sessions": ("", ""),
        "era_get_session": ("session_id", "session_id"),
        "era_delete_session": ("session_id", "session_id"),
        "era_update_session": (
            "session_id default_timeout allowInternetAccess allowPublicAccess", "session_id"
        ),
        "era_upload_file": ("session_id path file_path content", "session_id content"),
        "era_read_file": ("session_id path file_path", "session_id"),
        "era_list_files": ("session_id", "session_id"),
    }  # fmt: skip
    found = {
        name: (set(schema["properties"]), set(schema.get("required", [])))
        for name, schema in tools.items()
    }
    assert found == {name: (set(a.split()), set(b.split())) for name, (a, b) in promised.items()}


async def test_notifications_get_no_reply(api: httpx2.AsyncClient) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    answer = await api.post("/mcp/v1", json=body)
    assert answer.status_code == 202
    assert answer.content in (b"", b"null")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"{'a': 1}", b"[" * 100_000])
async def test_what_is_no_json(api: httpx2.AsyncClient, content: bytes) -> None:
    answer = await api.post("/mcp/v1", content=content)
    assert answer.status_code in (400, 413)
    if answer.status_code == 400:
        assert answer.json()["error"]["code"] == -32700


async def test_errors_of_form(api: httpx2.AsyncClient) -> None:
    assert (await error(api, "tools/unknown"))[0] == -32601
    assert (await error(api, "tools/call"))[0] == -32602
    for tool, arguments, message in [
        ("era_unknown", {}, "unknown tool: era_unknown"),
        ("era_python", {}, "code is required"),
        ("era_python", {"code": " "}, "code is required"),
        ("era_python", {"code": 1}, "code must be a string"),
        ("era_python", {"code": "1", "timeout": "1"}, "timeout must be a number"),
        ("era_python", {"code": "1", "timeout": -1}, "timeout must be a number of seconds, 0 or more"),
        ("era_python", {"code": "1", "allowInternetAccess": 1}, "allowInternetAccess must be a boolean"),
        ("era_execute_code", {"code": "1"}, "language is required"),
        ("era_execute_code", {"code": "1", "language": "py", "files": {"a": 1}},
         "files must be an object of strings"),
        ("era_shell", {"command": ""}, "command must be a command without NUL"),
        ("era_update_session", {"session_id": "s"}, "At least one field must be provided to update"),
        ("era_upload_file", {"session_id": "s", "content": ""}, "path is required"),
        ("era_create_session", {"language": "py", "packages": "x"}, "packages must be an array of strings"),
    ]:  # fmt: skip
        assert await error(api, "tools/call", name=tool, arguments=arguments) == (-32602, message)


async def test_refusals_are_results(api: httpx2.AsyncClient) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("era_get_session", {"session_id": "none"}, "Session not found (session_not_found)"),
        ("era_get_session", {"session_id": "../x"}, "invalid_id"),
        ("era_execute_code", {"code": "1", "language": "cobol"}, "unsupported language: cobol"),
        ("era_deno", {"code": "1"}, "deno is not installed"),
        ("era_python", {"code": "1", "timeout": 3601}, "timeout_too_large"),
        ("era_run_in_session", {"session_id": "none", "code": "1"}, "session_not_found"),
        ("era_create_session", {"language": "py", "setup": {"pip": ["-r x"]}}, "invalid_setup"),
        ("era_create_session", {"language": "python", "session_id": ""}, "invalid_id"),
    ]  # fmt: skip
    for tool, arguments, part in cases:
        failed, text = await call(api, tool, **arguments)
        assert failed
        assert part in text
        assert "Traceback" not in text


async def test_a_failure_inside_tells_nothing(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(sessions, "list", broken)
    failed, text = await call(api, "era_list_sessions")
    assert failed
    assert "secret" not in text
    assert text.startswith("Error: internal error (internal)")


async def test_a_program(api: httpx2.AsyncClient) -> None:
    text = await said(api, "era_python", code="import sys; print('hé'); sys.exit(3)")
    assert re.fullmatch(r"Exit Code: 3\n\nStdout:\nhé\n\nDuration:\n[\d.]+m?s", text)
    code = "import sys; print(open('a/b').read(), sys.stdin.read(), file=sys.stderr)"
    text = await said(
        api, "era_execute_code", code=code, language="py", files={"a/b": "x"}, envs={"A": "1"}
    )
    assert text.startswith("Exit Code: 0\n\nStderr:\nx \n\nDuration:\n")
    text = await said(api, "era_python", code="import time; time.sleep(60)", timeout=0.5)
    assert text.startswith("Exit Code: 124\n")
    assert text.endswith("\n\nNote:\nthe run was ended at its timeout")


async def test_work_in_a_session(api: httpx2.AsyncClient) -> None:
    created = json.loads(await said(api, "era_create_session", language="py", default_timeout=5))
    name = created["id"]
    assert re.fullmatch(r"sess-\d{13}-[0-9a-z]{9}", name)
    assert created["session_id"] == name
    assert (created["language"], created["persistent"]) == ("python", True)
    assert created["message"].startswith("Session created successfully!")
    assert f"Session ID: {name}" in created["message"]
    put = await said(api, "era_upload_file", session_id=name, file_path="d/in.txt", content="hé")
    assert json.loads(put) == {"path": "d/in.txt", "size": 3}
    code = "print(open('d/in.txt').read()); open('out.txt', 'w').write('o')"
    assert "Stdout:\nhé" in await said(api, "era_run_in_session", session_id=name, code=code)
    assert "Stdout:\no" in await said(api, "era_shell", session_id=name, command="cat out.txt")
    assert await said(api, "era_read_file", session_id=name, path="d/in.txt") == "hé"
    listed = json.loads(await said(api, "era_list_files", session_id=name))
    assert [file["path"] for file in listed["files"]] == ["d/in.txt", "out.txt"]
    changed = await said(
        api, "era_update_session", session_id=name, allowInternetAccess=True, default_timeout=6
    )
    assert json.loads(changed)["allowInternetAccess"] is True
    found = json.loads(await said(api, "era_get_session", session_id=name))
    assert (found["default_timeout"], found["file_count"]) == (6, 2)
    assert json.loads(await said(api, "era_list_sessions"))["count"] == 1
    await said(api, "era_delete_session", session_id=name)
    assert (await api.get(f"/api/sessions/{name}")).status_code == 404


async def test_packages_become_a_setup_of_the_language(api: httpx2.AsyncClient) -> None:
    given: dict[str, Any] = {
        "language": "node",
        "packages": ["a"],
        "setup": {"npm": ["b"], "commands": ["true"]},
    }
    made = json.loads(await said(api, "era_create_session", **given))
    setup = (await api.get(f"/api/sessions/{made['id']}")).json()["setup"]
    assert setup == {"npm": ["b", "a"], "commands": ["true"]}
    assert "Setup: pending" in made["message"]


async def test_a_file_too_large_to_tell(api: httpx2.AsyncClient) -> None:
    await api.post("/api/sessions", json={"id": "s", "language": "python"})
    await api.put("/api/sessions/s/files/f", content=b"x" * ((1 << 20) + 1))
    failed, text = await call(api, "era_read_file", session_id="s", path="f")
    assert failed
    assert "file_too_large" in text


async def test_resources(api: httpx2.AsyncClient) -> None:
    await api.post("/api/sessions", json={"id": "s", "language": "python", "data": {"n": 1}})
    await api.put("/api/sessions/s/files/f", content=b"x")
    listed = (await rpc(api, "resources/list"))["result"]["resources"]
    assert [resource["uri"] for resource in listed] == ["session://s", "session://s/files"]
    (read,) = (await rpc(api, "resources/read", uri="session://s"))["result"]["contents"]
    assert json.loads(read["text"])["data"] == {"n": 1}
    (read,) = (await rpc(api, "resources/read", uri="session://s/files"))["result"]["contents"]
    assert [file["path"] for file in json.loads(read["text"])["files"]] == ["f"]
    for uri in (
        "session://x",
        "session://",
        "session://s/x",
        "file:///etc/passwd",
        "session://s/f/files",
    ):
        assert (await error(api, "resources/read", uri=uri))[0] == -32602


async def test_more_sessions_than_a_page(api: httpx2.AsyncClient, sessions: Sessions) -> None:

    for number in range(501):
        await sessions.create(NewSession(id=f"s{number}", language="python"))
    first = (await rpc(api, "resources/list"))["result"]
    rest = (await rpc(api, "resources/list", cursor=first["nextCursor"]))["result"]
    assert len(first["resources"] + rest["resources"]) == 1002
    assert (await error(api, "resources/list", cursor="x"))[0] == -32602


async def test_any_headers_will_do(api: httpx2.AsyncClient) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Accept": "text/html"}):
        answer = await api.post("/mcp", content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_only_post_is_there(api: httpx2.AsyncClient) -> None:
    for method in ("GET", "DELETE", "PUT"):
        answer = await api.request(method, "/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")


async def test_the_key_guards_it(connect: Callable[..., Any]) -> None:
    locked = await connect(api_keys=("k",))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert (await locked.post("/mcp", json=body)).status_code == 401
    allowed = await locked.post("/mcp", json=body, headers={"Authorization": "Bearer k"})
    assert allowed.json()["result"]["tools"]


async def test_a_body_too_large(connect: Callable[..., Any]) -> None:

    small = await connect(bounds=Bounds(body_bytes=1000))
    answer = await small.post("/mcp", content=b" " * 1001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def pinged(api: httpx2.AsyncClient, **headers: str) -> int:
    """The status of a ping; a refusal is one of JSON-RPC."""
    answer = await api.post("/mcp", json=PING, headers=headers)
    if answer.status_code == 403:
        assert answer.json()["error"]["code"] == -32000
        assert answer.json()["id"] is None
    else:
        assert answer.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    return answer.status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8787", 200),
        ("localhost:8787", 200),
        ("LOCALHOST", 200),
        ("era.localhost", 200),
        ("[::1]:8787", 200),
        ("192.0.2.7", 200),
        ("evil.example", 403),
        ("evil.example:8787", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
    ],
)
async def test_a_name_of_somebody_elses(connect: Connect, host: str, status: int) -> None:
    """What a browser sends that was led here by a name that is not ours; elsewhere any name will do."""
    local = await connect(base_url="http://127.0.0.1:8787")
    assert await pinged(local, host=host) == status
    origin = f"http://{host}"
    assert await pinged(local, host=host, origin=origin) == status
    if status == 403:
        far = await connect(base_url="http://192.0.2.1:8787")
        assert await pinged(far, host=host) == 200


async def test_names_that_the_operator_knows(connect: Connect) -> None:
    local = "http://127.0.0.1:8787"
    named = await connect(base_url=local, public_url="https://era.example/")
    assert await pinged(named, host="era.example") == 200
    assert await pinged(named, host="evil.example") == 403
    behind = await connect(base_url=local, trust_proxy=True)
    assert await pinged(behind, host="any.example") == 200
    locked = await connect(base_url=local, api_keys=("k",))
    assert await pinged(locked, host="any.example", authorization="Bearer k") == 200


async def test_origins_that_are_not_listed(connect: Connect) -> None:
    listed = await connect(base_url="http://127.0.0.1:8787", cors_origins=("https://a.example",))
    assert await pinged(listed) == 200
    assert await pinged(listed, origin="https://a.example") == 200
    assert await pinged(listed, origin="http://127.0.0.1:8787") == 200
    for origin in ("https://b.example", "null", "http://[", "https://a.example.evil.example"):
        assert await pinged(listed, origin=origin) == 403
    anyone = await connect(base_url="http://127.0.0.1:8787")
    assert await pinged(anyone, origin="https://b.example") == 200
