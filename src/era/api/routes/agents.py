"""MCP over HTTP: JSON-RPC of agents, one request at a time, where the session is that a tool names."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from starlette.responses import Response

from era import jsontext
from era.api import body, schemas
from era.api.answers import json_answer
from era.api.answers_parts import RpcAnswer
from era.api.body import unless_gone
from era.api.forward import where_it_is, where_it_runs
from era.api.rebinding import why_not
from era.api.routing import Call, Handler, Operation
from era.errors import EraError, NotFoundError
from era.ids import is_session_id
from era.mcp.schemas import ENDS_THERE, RUNS_THERE

_NOT_FOR_YOU: Final = -32000
"""Of the numbers that JSON-RPC leaves to servers."""


async def agent(call: Call) -> Response | None:
    """Answer an agent."""
    refused = why_not(call)
    if refused is not None:
        error = {"code": _NOT_FOR_YOU, "message": refused}
        return json_answer({"jsonrpc": "2.0", "id": None, "error": error}, 403)
    if call.sessions.takeover_seconds is None:
        return await _answer(call)
    content = await body.read_bytes(
        call.scope, call.receive, call.options.bounds.body_bytes, call.options.buffer
    )
    handler: Handler = _answer
    session_id = ""
    name, arguments = _tool(content)
    found = arguments.get("session_id")
    if isinstance(found, str) and is_session_id(found):
        session_id = found
        handler = _ANYWHERE.get(name, _answer)
    try:
        return await handler(call.again(content, session_id=session_id))
    except NotFoundError:  # the tool says it in its own words
        return await _answer(call.again(content))


def _tool(content: bytes) -> tuple[str, dict[str, Any]]:
    """The tool that is called, if one is, and what it is given."""
    with suppress(EraError, ValueError, UnicodeDecodeError, AttributeError):
        asked = jsontext.loads(content.decode())
        if asked.get("method") == "tools/call":
            params = asked.get("params")
            return str(params.get("name")), dict(params.get("arguments") or {})
    return "", {}


async def _answer(call: Call) -> Response | None:
    options = call.options
    content = await body.read_bytes(
        call.scope, call.receive, options.bounds.body_bytes, options.buffer
    )
    http = await asyncio.to_thread(_door)
    limits = http.Limits(
        max_timeout_seconds=options.bounds.max_timeout_seconds,
        code_bytes=options.bounds.code_bytes,
        file_bytes=options.bounds.file_bytes,
    )
    work = http.answer(call.sessions, limits, options.clock, call.base_url(), call.scope, content)
    answered = await unless_gone(call.receive, work)
    if answered is None:
        return None
    answer = Response(answered.body, answered.status)
    answer.raw_headers = [
        *(pair for pair in answered.headers if pair[0].lower() != b"content-length"),
        (b"content-length", str(len(answered.body)).encode()),
    ]
    return answer


def _door() -> ModuleType:
    """The MCP door, imported by the first request: it takes a while, and is an extra."""
    try:
        from era.mcp import http
    except ImportError:
        raise EraError(
            "not_implemented", hint="The server has no MCP: pip install 'era[mcp]' adds it."
        ) from None
    return http


_ANYWHERE: Final[dict[str, Handler]] = {
    **dict.fromkeys(RUNS_THERE, where_it_runs(_answer)),
    **dict.fromkeys(ENDS_THERE, where_it_is(_answer)),
}

OPERATIONS: Final = tuple(
    Operation(
        method="POST",
        path=path,
        handler=agent,
        summary="MCP: tools and resources for agents, as JSON-RPC",
        body=schemas.RpcBody,
        answer=RpcAnswer,
        others={
            202: ("A notification, which has no answer.", None),
            400: ("What is no JSON-RPC, or asks for what is not there.", RpcAnswer),
            403: ("By a name or from an origin that is not the server's.", RpcAnswer),
        },
        errors=("body_too_large", "server_busy", "not_implemented"),
    )
    for path in ("/mcp/v1", "/mcp")
)
