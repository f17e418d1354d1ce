"""Running code: one-shot, and in a session."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from era import wire
from era.api import answers_schema as schema
from era.api import parse, schemas
from era.api.answers import json_answer
from era.api.body import unless_gone
from era.api.routing import Call, Operation

RUN_ERRORS: Final = (
    "invalid_json",
    "invalid_body",
    "missing_field",
    "invalid_field",
    "unsupported_language",
    "timeout_too_large",
    "conflicting_fields",
    "body_too_large",
    "code_too_large",
    "server_busy",
    "execution_failed",
    "isolation_unavailable",
    "shutting_down",
)


async def execute(call: Call) -> Response | None:
    """Run code once; nothing is kept."""
    request = parse.execute(await call.object(), call.options.bounds)
    result = await unless_gone(call.receive, call.sessions.execute(request))
    return None if result is None else json_answer(wire.run_object(result, session=False))


async def run(call: Call) -> Response | None:
    """Run code in a session."""
    session_id = call.session_id
    request = parse.run(await call.object(), call.options.bounds, call.base_url())
    result = await unless_gone(call.receive, call.sessions.run(session_id, request))
    return None if result is None else json_answer(wire.run_object(result, session=True))


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/api/execute",
        handler=execute,
        summary="Run code once; nothing is kept",
        body=schemas.ExecuteBody,
        answer=schema.ExecuteResult,
        errors=(*RUN_ERRORS, "invalid_path", "reserved_path"),
    ),
    Operation(
        method="POST",
        path="/api/sessions/{session_id}/run",
        handler=run,
        summary="Run code in a session",
        body=schemas.RunBody,
        answer=schema.RunResult,
        errors=(
            *RUN_ERRORS,
            "no_code",
            "session_not_found",
            "setup_pending",
            "session_deleted",
            "data_too_large",
            "session_queue_full",
        ),
    ),
)
