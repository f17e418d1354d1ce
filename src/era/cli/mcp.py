"""`era mcp`: MCP on standard input and output, one JSON-RPC message a line, carried to a server.

The tools are the server's; what is done here is to carry messages there and back, many at a time, and
to hang up on a request that the agent has cancelled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, BinaryIO, Final

import httpx2

from era.cli.common import Common, Remote
from era.environment import api_key as default_key
from era.environment import server_url

_PATH: Final = "/mcp/v1"
_FAILED: Final = -32000
"""The code of JSON-RPC for what a server alone can say of itself."""
_PARSE_ERROR: Final = -32700
_CONNECT_SECONDS: Final = 10.0

Message = dict[str, Any]


def run(server: Remote, _common: Common) -> int:
    """Carry messages until standard input ends; 0."""
    key = server.api_key or default_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = (server.url or server_url()).rstrip("/")
    asyncio.run(_carry(base, headers, sys.stdin.buffer, sys.stdout.buffer))
    return 0


async def _carry(base: str, headers: dict[str, str], source: BinaryIO, target: BinaryIO) -> None:
    # A program may take its time; that there is a server shows at once.
    timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=base, headers=headers, timeout=timeout, limits=limits, trust_env=False
    ) as client:
        carrier = Carrier(client, target)
        while line := await asyncio.to_thread(source.readline):
            if line.strip():
                carrier.take(line)
        await carrier.finish()


class Carrier:
    """Messages on their way; answers are written whole, as they come."""

    def __init__(self, client: httpx2.AsyncClient, target: BinaryIO) -> None:
        self._client = client
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: dict[str, asyncio.Task[None]] = {}

    def take(self, line: bytes) -> None:
        """Carry one message."""
        try:
            message = json.loads(line)
        except ValueError as error:
            self._say(_error(None, _PARSE_ERROR, f"Parse error: {error}"))
            return
        number = message.get("id") if isinstance(message, dict) else None
        task = asyncio.get_running_loop().create_task(self._carried(line, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if number is not None:
            name = _name(number)
            self._requests[name] = task
            task.add_done_callback(lambda _: self._requests.pop(name, None))
        if isinstance(message, dict) and message.get("method") == "notifications/cancelled":
            self._cancel(message.get("params"))

    async def finish(self) -> None:
        """Wait for the answers that are still to come."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _cancel(self, params: Any) -> None:
        """Hang up: the server ends what it did for this request alone."""
        number = params.get("requestId") if isinstance(params, dict) else None
        task = self._requests.get(_name(number))
        if task is not None:
            task.cancel()

    async def _carried(self, line: bytes, number: Any) -> None:
        try:
            answer = await self._client.post(_PATH, content=line)
        except httpx2.HTTPError as error:
            words = f"the server at {self._client.base_url} cannot be reached: {error}"
            self._fail(number, words)
            return
        try:
            said = answer.json() if answer.content.strip() else None
        except ValueError:
            said = {"error": f"the server answered with status {answer.status_code}"}
        if isinstance(said, dict) and "jsonrpc" in said:
            self._say(said)
        elif isinstance(said, dict) and number is not None:
            parts = [str(said[name]) for name in ("error", "hint") if said.get(name)]
            self._fail(number, ". ".join(parts))

    def _fail(self, number: Any, words: str) -> None:
        if number is None:
            print(f"era: {words}", file=sys.stderr)
        else:
            self._say(_error(number, _FAILED, words))

    def _say(self, message: Message) -> None:
        self._target.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        self._target.flush()


def _name(number: Any) -> str:
    """The id of a request, with its type: `1` is not `"1"`."""
    return json.dumps(number)


def _error(number: Any, code: int, words: str) -> Message:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": words}}
