"""Sessions: create, list, get, change, delete, duplicate; and where their servers are reached."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from era import wire
from era.api import answers_schema as schema
from era.api import parse, schemas
from era.api.answers import json_answer
from era.api.forward import where_it_is
from era.api.routing import Call, Operation
from era.durations import timestamp
from era.errors import ConflictError, InputError, NotFoundError
from era.models import SessionView

PAGING: Final = {
    "limit": "At most that many items, 1 to 1000.",
    "cursor": "`next_cursor` of the answer before.",
}


def _created(call: Call, view: SessionView, warnings: tuple[str, ...] = ()) -> Response:
    answer = wire.session_object(view, now_ms=call.now_ms)
    if warnings:
        answer["warnings"] = list(warnings)
    return json_answer(answer, 201, {"Location": f"/api/sessions/{view.record.id}"})


async def create(call: Call) -> Response:
    """Create a session; its setup, if any, begins in the background."""
    new, warnings = await call.object(parse.create, call.options.bounds)
    return _created(call, await call.sessions.create(new), warnings)


async def list_all(call: Call) -> Response:
    """Sessions, oldest first."""
    page = await call.sessions.list(
        prefix=call.query("prefix") or "", limit=call.limit(), cursor=call.query("cursor")
    )
    now_ms = call.now_ms
    items = [wire.session_object(view, now_ms=now_ms, full=False) for view in page.items]
    return json_answer(wire.page_object("sessions", items, page))


async def get(call: Call) -> Response:
    """A session's committed state."""
    view = await call.sessions.get(call.session_id, with_files=call.flag("files"))
    return json_answer(wire.session_object(view, now_ms=call.now_ms))


async def patch(call: Call) -> Response:
    """Change settings, metadata or data."""
    session_id = call.session_id
    change = await call.object(parse.patch, call.options.bounds, nulls=True)
    view = await call.sessions.patch(session_id, change)
    answer = {
        "success": True,
        **_ids(session_id),
        "metadata": wire.session_object(view, now_ms=call.now_ms),
        "updated_at": timestamp(view.record.updated_at_ms),
    }
    return json_answer(answer)


def _ids(session_id: str) -> dict[str, Any]:
    return {"id": session_id, "session_id": session_id}


async def delete(call: Call) -> Response:
    """Delete a session with everything of it."""
    session_id = call.session_id
    at_ms = await call.sessions.delete(session_id)
    answer = {"deleted": session_id, "success": True, **_ids(session_id)}
    return json_answer({**answer, "deleted_at": timestamp(at_ms)})


async def delete_all(call: Call) -> Response:
    """Delete every session, or those whose id begins with `prefix`."""
    ids, at_ms = await call.sessions.delete_all(call.query("prefix") or "")
    answer = {"success": True, "deleted_count": len(ids), "deleted_sessions": list(ids)}
    return json_answer({**answer, "deleted_at": timestamp(at_ms)})


async def duplicate(call: Call) -> Response:
    """Copy a session from one committed state."""
    try:
        session_id = call.session_id
        copy = await call.object(parse.copy, call.options.bounds)
        return _created(call, await call.sessions.duplicate(session_id, copy))
    except NotFoundError:
        raise NotFoundError("session_not_found", "source session not found") from None
    except ConflictError as error:
        raise ConflictError(error.code, f"new {error.text}", **error.extra) from None


async def host(call: Call) -> Response:
    """The address under which a server in the session's run is reached."""
    session_id, port = call.session_id, _port(call)
    view = await call.sessions.get(session_id)
    base, public = call.base_url(), view.record.allow_public
    answer: dict[str, Any] = {
        "url": f"{base}/proxy/{session_id}/{port}",
        "base_url": base,
        "session_id": session_id,
        "port": port,
        "public": public,
    }
    if not public:
        answer["hint"] = (
            f'PATCH /api/sessions/{session_id} with {{"allowPublicAccess": true}} '
            "to let callers in without the API key"
        )
    return json_answer(answer)


def _port(call: Call) -> int:
    text = call.query("port")
    if text is None:
        raise InputError("port_required", usage="/api/sessions/{id}/host?port=8000")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InputError("invalid_port")
    return int(text)


_BODY_ERRORS: Final = (
    "invalid_json",
    "invalid_body",
    "invalid_field",
    "body_too_large",
    "data_too_large",
)

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/sessions",
        handler=list_all,
        summary="List sessions, oldest first",
        answer=schema.SessionList,
        query={"prefix": "Only ids that begin so.", **PAGING},
        errors=("invalid_field",),
    ),
    Operation(
        method="POST",
        path="/api/sessions",
        handler=create,
        summary="Create a session",
        body=schemas.CreateBody,
        answer=schema.Session,
        status=201,
        errors=(
            *_BODY_ERRORS,
            "missing_field",
            "invalid_id",
            "unsupported_language",
            "conflicting_fields",
            "invalid_default_timeout",
            "invalid_setup",
            "session_exists",
            "metadata_too_large",
        ),
    ),
    Operation(
        method="DELETE",
        path="/api/sessions",
        handler=delete_all,
        summary="Delete every session",
        answer=schema.DeletedSessions,
        query={"prefix": "Only ids that begin so."},
    ),
    Operation(
        method="GET",
        path="/api/sessions/{session_id}",
        handler=get,
        summary="A session",
        answer=schema.Session,
        query={"files": "1: with the list of files."},
        errors=("session_not_found",),
    ),
    Operation(
        method="PATCH",
        path="/api/sessions/{session_id}",
        handler=patch,
        summary="Change a session",
        body=schemas.PatchBody,
        answer=schema.Patched,
        errors=(
            *_BODY_ERRORS,
            "unknown_field",
            "no_fields",
            "invalid_default_timeout",
            "session_not_found",
            "metadata_too_large",
        ),
    ),
    Operation(
        method="DELETE",
        path="/api/sessions/{session_id}",
        handler=where_it_is(delete),
        summary="Delete a session",
        answer=schema.DeletedSession,
        errors=("session_not_found",),
    ),
    Operation(
        method="POST",
        path="/api/sessions/{session_id}/duplicate",
        handler=duplicate,
        summary="Copy a session",
        body=schemas.CopyBody,
        answer=schema.Session,
        status=201,
        errors=(
            *_BODY_ERRORS,
            "invalid_id",
            "conflicting_fields",
            "session_not_found",
            "session_exists",
        ),
    ),
    Operation(
        method="GET",
        path="/api/sessions/{session_id}/host",
        handler=host,
        summary="Where a server of the session is reached",
        answer=schema.Host,
        query={"port": "The port the server listens on."},
        errors=("port_required", "invalid_port", "session_not_found"),
    ),
)
