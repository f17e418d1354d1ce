"""Agents with the official client, over HTTP and by `era mcp`, and real boxes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import httpx2
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent, TextResourceContents

from era.mcp.schemas import TOOLS
from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer
from tests.e2e.pairs import until

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("mcp")]

KEY = "key-of-agents"
Way = Literal["http", "stdio"]


@pytest.fixture(scope="module")
def server() -> Iterator[WatchedServer]:
    with watched({"ERA_API_KEY": KEY, "ERA_PYTHON_PACKAGES": "none"}) as running:
        yield running


@asynccontextmanager
async def client(server: WatchedServer, way: Way, mode: Any = "auto") -> AsyncIterator[Client]:
    """The official client, connected."""
    async with AsyncExitStack() as stack:
        if way == "http":
            http = await stack.enter_async_context(
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
            )
            transport = streamable_http_client(f"{server.url}/mcp/v1", http_client=http)
            yield await stack.enter_async_context(Client(transport, mode=mode))
        else:
            arguments = ["-m", "era", "mcp", "--url", server.url]
            command = StdioServerParameters(
                command=sys.executable, args=arguments, env={"ERA_API_KEY": KEY, **paths()}
            )
            yield await stack.enter_async_context(Client(command, mode=mode))


def paths() -> dict[str, str]:
    import os

    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}


def said(result: CallToolResult) -> str:
    assert not result.is_error, result
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize("way", ["http", "stdio"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works(server: WatchedServer, way: Way, mode: str) -> None:
    async with client(server, way, mode) as agent:
        assert agent.server_info is not None
        assert agent.server_info.name == "era-agent-mcp"
        tools = await agent.list_tools()
        assert [tool.name for tool in tools.tools] == [shown.name for shown in TOOLS]
        text = said(await agent.call_tool("era_python", {"code": "print('é' * 3)"}))
        assert text.startswith("Exit Code: 0\n\nStdout:\nééé\n")
        made = json.loads(said(await agent.call_tool("era_create_session", {"language": "python"})))
        name = made["session_id"]
        code = "open('f', 'w').write('kept')"
        said(await agent.call_tool("era_run_in_session", {"session_id": name, "code": code}))
        again = await agent.call_tool("era_shell", {"session_id": name, "command": "cat f"})
        assert "Stdout:\nkept" in said(again)
        uris = [str(resource.uri) for resource in (await agent.list_resources()).resources]
        assert f"session://{name}/files" in uris
        read = await agent.read_resource(f"session://{name}/files")
        (content,) = read.contents
        assert isinstance(content, TextResourceContents)
        assert json.loads(content.text)["files"][0]["path"] == "f"
        refused = await agent.call_tool("era_get_session", {"session_id": "none"})
        assert refused.is_error
        said(await agent.call_tool("era_delete_session", {"session_id": name}))


@pytest.mark.parametrize(
    ("tool", "code"),
    [
        ("era_python", "print(6 * 7)"),
        ("era_node", "console.log(6 * 7)"),
        ("era_typescript", "const n: number = 6; console.log(n * 7)"),
        ("era_deno", "console.log(6 * 7)"),
    ],
)
async def test_each_language_has_its_tool(server: WatchedServer, tool: str, code: str) -> None:
    async with client(server, "http") as agent:
        assert "Stdout:\n42" in said(await agent.call_tool(tool, {"code": code}))


async def test_programs_are_offline(server: WatchedServer) -> None:
    code = "import socket; socket.create_connection(('1.1.1.1', 53), 5)"
    async with client(server, "http") as agent:
        assert "unreachable" in said(await agent.call_tool("era_python", {"code": code}))


async def test_calls_go_on_side_by_side(server: WatchedServer) -> None:
    async with client(server, "stdio") as agent:
        slow = asyncio.ensure_future(
            agent.call_tool("era_python", {"code": "import time; time.sleep(600)", "timeout": 900})
        )
        for number in range(4):
            code = f"print({number})"
            assert f"Stdout:\n{number}" in said(await agent.call_tool("era_python", {"code": code}))
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


# --- the wire of `era mcp` ----------------------------------------------------------------------


def spoken(lines: bytes, *arguments: str, key: str = KEY) -> list[dict[str, Any]]:
    """What `era mcp` answers to these lines, by the id of the request."""
    done = subprocess.run(
        [sys.executable, "-m", "era", "mcp", *arguments],
        input=lines,
        env={**os.environ, "ERA_API_KEY": key},
        capture_output=True,
        timeout=120,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(answers, key=lambda answer: str(answer["id"]))


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_lines_in_lines_out(server: WatchedServer) -> None:
    lines = (
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n\n'
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        b"not json\n"
        b'{"jsonrpc":"2.0","id":"2","method":"nothing"}\n'
        b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"era_python",'
        b'"arguments":{"code":"print(\'\xc3\xa9\')"}}}'
    )
    one, two, three, none = spoken(lines, "--url", server.url)
    assert one == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert (two["id"], two["error"]["code"]) == ("2", -32601)
    assert "Stdout:\né" in three["result"]["content"][0]["text"]
    assert (none["id"], none["error"]["code"]) == (None, -32700)


def test_a_wrong_key_and_no_server(server: WatchedServer) -> None:
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    (refused,) = spoken(ping, "--url", server.url, key="wrong")
    assert refused["error"]["code"] == -32000
    assert "unauthorized" in refused["error"]["message"]
    (lost,) = spoken(ping, "--url", "http://127.0.0.1:9")
    assert "cannot be reached" in lost["error"]["message"]


def test_a_cancelled_call_ends_its_program(server: WatchedServer) -> None:
    arguments = {"command": "sleep 98769", "timeout": 900}
    params = {"name": "era_shell", "arguments": arguments}
    call = {"jsonrpc": "2.0", "method": "tools/call", "params": params}
    process = subprocess.Popen(
        [sys.executable, "-m", "era", "mcp", "--url", server.url],
        env={**os.environ, "ERA_API_KEY": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    with process:
        for number in range(2):
            process.stdin.write(json.dumps({**call, "id": number}).encode() + b"\n")
        process.stdin.flush()
        until(lambda: sleeping() == 2)
        for number in range(2):
            cancel = {"method": "notifications/cancelled", "params": {"requestId": number}}
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **cancel}).encode() + b"\n")
        process.stdin.close()
        assert process.wait(60) == 0
    until(lambda: sleeping() == 0)


def sleeping() -> int:
    lines = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    return lines.count(["sleep", "98769"])
