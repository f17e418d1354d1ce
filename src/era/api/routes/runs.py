"""Running code: one-shot, and in a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from era import wire
from era.api import answers_schema as schema
from era.api import parse, schemas
from era.api.answers import json_answer
from era.api.body import unless_gone
from era.api.forward import where_it_is, where_it_runs
from era.api.routing import Call, Operation
from era.api.stream import EventStream, Feed, Shown, session_run
from era.models import RunResult

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
    request = await call.object(parse.execute, call.options.bounds)
    result = await unless_gone(call.receive, call.sessions.execute(request))
    return None if result is None else json_answer(wire.run_object(result, session=False))


async def run(call: Call) -> Response | None:
    """Run code in a session."""
    session_id = call.session_id
    request = await call.object(parse.run, call.options.bounds, call.base_url())
    result = await unless_gone(call.receive, call.sessions.run(session_id, request))
    return None if result is None else json_answer(wire.run_object(result, session=True))


async def stream(call: Call) -> Response:
    """Run code in a session, its output as events while it comes.

    What can be refused before the run is queued is an ordinary error.
    """
    session_id = call.session_id
    request = await call.object(parse.run, call.options.bounds, call.base_url())
    return await streamed(call, partial(call.sessions.run, session_id, request), session_run)


Start = Callable[[Callable[[str, str], None], Callable[[], None]], Coroutine[Any, Any, RunResult]]
"""Begins a run whose output goes to a sink (stream, text), and tells when the run has been queued."""


async def streamed(call: Call, start: Start, shown: Shown) -> Response:
    """The events of a run; what can be refused before it is queued is raised."""
    feed, accepted = Feed(), asyncio.Event()
    run = asyncio.ensure_future(start(feed.output, accepted.set))
    waiting = asyncio.ensure_future(accepted.wait())
    try:
        await asyncio.wait((run, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not accepted.is_set():
            await run
    except BaseException:
        run.cancel()
        raise
    finally:
        waiting.cancel()
    return EventStream(run, feed, call.request_id, shown)


async def cancel(call: Call) -> Response:
    """End the run in progress; what it did is kept."""
    run_id = await call.sessions.cancel(call.session_id)
    if run_id is None:
        return json_answer({"cancelled": False})
    return json_answer({"cancelled": True, "run_id": run_id})


SESSION_RUN_ERRORS: Final = (
    *RUN_ERRORS,
    "no_code",
    "session_not_found",
    "setup_pending",
    "session_deleted",
    "data_too_large",
    "session_queue_full",
    "session_busy",
)

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
        handler=where_it_runs(run),
        summary="Run code in a session",
        body=schemas.RunBody,
        answer=schema.RunResult,
        errors=SESSION_RUN_ERRORS,
    ),
    Operation(
        method="POST",
        path="/api/sessions/{session_id}/stream",
        handler=where_it_runs(stream),
        summary="Run code in a session, with its output as server-sent events",
        body=schemas.RunBody,
        answer=EventStream.media_type,
        errors=SESSION_RUN_ERRORS,
    ),
    Operation(
        method="POST",
        path="/api/sessions/{session_id}/cancel",
        handler=where_it_is(cancel),
        summary="End the run in progress",
        answer=schema.Cancelled,
        errors=("session_not_found",),
    ),
)
