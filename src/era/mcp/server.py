"""The tools and resources as a server of the MCP SDK.

Importing this takes half a second and 26 MB, so it is done with the first request of an agent.
Requests have no state between them: whatever an agent does lasts in sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import mcp_types as types
import structlog
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from era import __version__
from era.errors import EraError, InternalError, NotFoundError
from era.ids import is_session_id
from era.mcp import texts
from era.mcp.arguments import BadArgumentsError
from era.mcp.schemas import TOOLS, Shown
from era.mcp.tools import Tools
from era.sessions.service import Sessions

NAME: Final = "era-agent-mcp"
OLDEST: Final = "0.1.0"
"""A version that some clients say; it differs from the first official one in nothing used here."""
_SCHEME: Final = "session://"
_FILES: Final = "/files"
_PAGE: Final = 500
"""Sessions on a page of resources, of which each has two."""
_INSTRUCTIONS: Final = (
    "Runs untrusted code in isolated boxes. For one program use era_python, era_node, era_typescript, "
    "era_deno or era_execute_code. For work of several steps create a session: its files and packages "
    "stay. Programs are offline unless allowInternetAccess is true."
)

_log = structlog.get_logger("era.mcp")

Context = ServerRequestContext[Any]


class Agent:
    """The handlers of one server."""

    def __init__(self, sessions: Sessions, tools: Tools) -> None:
        self._sessions = sessions
        self._tools = tools

    async def list_tools(
        self, _context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Every tool."""
        return types.ListToolsResult(tools=[_tool(shown) for shown in TOOLS])

    async def call_tool(
        self, _context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """What a tool says; a refusal is a result that says so."""
        try:
            said, failed = await self._tools.call(params.name, params.arguments or {}), False
        except BadArgumentsError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        except EraError as error:
            _note(error)
            said, failed = texts.error_text(error), True
        except Exception as error:  # noqa: BLE001 - the boundary: logged here, told to nobody
            _note(error)
            said, failed = texts.error_text(InternalError()), True
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=said)], is_error=failed
        )

    async def list_resources(
        self, _context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """Each session, and the list of its files."""
        cursor = None if params is None else params.cursor
        try:
            page = await self._sessions.list(limit=_PAGE, cursor=cursor)
        except EraError as error:
            raise MCPError(types.INVALID_PARAMS, error.text) from None
        ids = (view.record.id for view in page.items)
        return types.ListResourcesResult(
            resources=[resource for name in ids for resource in _resources(name)],
            next_cursor=page.next_cursor,
        )

    async def read_resource(
        self, _context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """A session, or the list of its files, as JSON."""
        uri = str(params.uri)
        name = uri.removeprefix(_SCHEME)
        session_id = name.removesuffix(_FILES)
        try:
            if not uri.startswith(_SCHEME) or not is_session_id(session_id):
                raise NotFoundError("not_found")
            if name == session_id:
                view = await self._sessions.get(session_id)
                text = texts.session_text(view, self._tools.now_ms)
            else:
                text = texts.files_text((await self._sessions.files(session_id)).items)
        except NotFoundError as error:
            raise MCPError(types.INVALID_PARAMS, error.text, {"uri": uri}) from None
        content = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[content])


def _note(error: Exception) -> None:
    if not isinstance(error, EraError) or isinstance(error, InternalError):
        _log.error("tool failed", exc_info=error)


def _tool(shown: Shown) -> types.Tool:
    hints = types.ToolAnnotations(
        read_only_hint=shown.reads, destructive_hint=shown.deletes, open_world_hint=False
    )
    return types.Tool(
        name=shown.name,
        description=shown.description,
        input_schema=shown.schema,
        annotations=hints,
    )


def _resources(session_id: str) -> Iterable[types.Resource]:
    for uri, what in (("", "Session"), (_FILES, "Files of session")):
        yield types.Resource(
            uri=f"{_SCHEME}{session_id}{uri}",
            name=f"{what} {session_id}",
            mime_type="application/json",
        )


async def _echo_version(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Answer the oldest version with itself: the SDK knows the official ones alone."""
    result = await call_next(ctx)
    asked = (ctx.params or {}).get("protocolVersion") if ctx.method == "initialize" else None
    if asked == OLDEST and isinstance(result, dict):
        return {**result, "protocolVersion": OLDEST}
    return result


def make(sessions: Sessions, tools: Tools) -> Server[Any]:
    """The server of the SDK."""
    agent = Agent(sessions, tools)
    server: Server[Any] = Server(
        NAME,
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=agent.list_tools,
        on_call_tool=agent.call_tool,
        on_list_resources=agent.list_resources,
        on_read_resource=agent.read_resource,
    )
    server.middleware.append(_echo_version)
    return server
