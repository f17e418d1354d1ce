"""Stored code, and the setup of a session."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from era import wire
from era.api import answers_schema as schema
from era.api import parse, schemas
from era.api.answers import json_answer
from era.api.routing import Call, Operation
from era.durations import timestamp


async def put_code(call: Call) -> Response:
    """Store default code."""
    session_id = call.session_id
    code, description = await call.object(parse.stored_code, call.options.bounds)
    stored = await call.sessions.put_code(session_id, code, description)
    answer = {"success": True, "session_id": session_id, "code_length": len(stored.code)}
    return json_answer({**answer, "updated_at": timestamp(stored.updated_at_ms)})


async def get_code(call: Call) -> Response:
    """The stored code."""
    return json_answer(wire.code_object(await call.sessions.code(call.session_id)))


async def delete_code(call: Call) -> Response:
    """Forget the stored code."""
    await call.sessions.delete_code(call.session_id)
    return json_answer({"deleted": "code"})


async def get_setup(call: Call) -> Response:
    """How the setup stands."""
    setup = await call.sessions.setup(call.session_id)
    return json_answer(wire.setup_object(setup, now_ms=call.now_ms))


async def retry_setup(call: Call) -> Response:
    """Run the stored setup again, or another one."""
    session_id = call.session_id
    spec = await call.object(parse.setup)
    view = await call.sessions.retry_setup(session_id, spec)
    return json_answer(wire.session_object(view, now_ms=call.now_ms), 202)


_CODE: Final = "/api/sessions/{session_id}/code"
_SETUP: Final = "/api/sessions/{session_id}/setup"

OPERATIONS: Final = (
    Operation(
        method="PUT",
        path=_CODE,
        handler=put_code,
        summary="Store default code",
        body=schemas.CodeBody,
        answer=schema.StoredCodeReceipt,
        errors=("missing_field", "invalid_field", "session_not_found", "code_too_large"),
    ),
    Operation(
        method="GET",
        path=_CODE,
        handler=get_code,
        summary="The stored code",
        answer=schema.StoredCode,
        errors=("session_not_found", "code_not_found"),
    ),
    Operation(
        method="DELETE",
        path=_CODE,
        handler=delete_code,
        summary="Delete the stored code",
        answer=schema.Deleted,
        errors=("session_not_found", "code_not_found"),
    ),
    Operation(
        method="GET",
        path=_SETUP,
        handler=get_setup,
        summary="How the setup stands",
        answer=schema.Setup,
        errors=("session_not_found", "not_found"),
    ),
    Operation(
        method="POST",
        path=_SETUP,
        handler=retry_setup,
        summary="Run the setup again",
        body=schemas.SetupBody,
        answer=schema.Session,
        status=202,
        errors=(
            "invalid_setup",
            "conflicting_fields",
            "session_not_found",
            "not_found",
            "setup_pending",
        ),
    ),
)
