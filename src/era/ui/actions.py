"""What the pages' forms and their script do: each is one call of the service, checked as the API does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from era import wire
from era.api import parse
from era.api.body import unless_gone
from era.api.media import chosen
from era.api.routes import runs
from era.api.routing import Call
from era.api.stream import Shown
from era.errors import missing_field
from era.models import RunRequest, RunResult
from era.ui import pages
from era.ui.forms import (
    Form,
    Part,
    Parts,
    create_members,
    execute_members,
    joined,
    read_form,
    run_members,
)
from era.ui.guard import TOKEN, check_token, see, shown

SESSIONS: Final = "/ui/sessions"


def address(session_id: str, fragment: str = "") -> str:
    """Where a session's page is."""
    return f"{SESSIONS}/{quote(session_id, safe='')}{fragment}"


async def create(call: Call) -> Response:
    """Create a session."""
    new, _ = parse.create(create_members(await read_form(call)), call.options.bounds)
    return see(address((await call.sessions.create(new)).record.id))


async def delete(call: Call) -> Response:
    """Delete a session."""
    await read_form(call)
    await call.sessions.delete(call.session_id)
    return see(SESSIONS)


async def cancel(call: Call) -> Response:
    """End the run in progress."""
    await read_form(call)
    await call.sessions.cancel(call.session_id)
    return see(address(call.session_id))


async def retry(call: Call) -> Response:
    """Run the stored setup again."""
    await read_form(call)
    await call.sessions.retry_setup(call.session_id)
    return see(address(call.session_id, "#setup"))


# --- runs -----------------------------------------------------------------------------------------


def _run_request(call: Call, form: Form) -> RunRequest:
    return parse.run(run_members(form), call.options.bounds, call.base_url())


def _execute_request(call: Call, form: Form) -> RunRequest:
    return parse.execute(execute_members(form), call.options.bounds)


async def run(call: Call) -> Response | None:
    """Run code in a session, and show what came of it."""
    session_id, form = call.session_id, await read_form(call)
    request = _run_request(call, form)
    result = await unless_gone(call.receive, call.sessions.run(session_id, request))
    if result is None:
        return None
    values = {**await pages.about(call, session_id), "form": form, **_result(result)}
    return shown(call, "session.html", values)


async def execute(call: Call) -> Response | None:
    """Run code once, and show what came of it."""
    form = await read_form(call)
    request = _execute_request(call, form)
    result = await unless_gone(call.receive, call.sessions.execute(request))
    if result is None:
        return None
    return shown(call, "run.html", {**pages.once(call), "form": form, **_result(result)})


def _result(result: RunResult) -> dict[str, Any]:
    return {"result": result, "outcome": pages.outcome(result)}


def _session_shown(result: RunResult) -> dict[str, Any]:
    return {**wire.run_object(result, session=True), "outcome": pages.outcome(result)}


def _once_shown(result: RunResult) -> dict[str, Any]:
    return {**wire.run_object(result, session=False), "outcome": pages.outcome(result)}


async def live_run(call: Call) -> Response:
    """Run code in a session, its output as the API's events while it comes."""
    session_id, form = call.session_id, await read_form(call)
    request = _run_request(call, form)

    async def start(output: Callable[[str, str], None], accepted: Callable[[], None]) -> RunResult:
        return await call.sessions.run(session_id, request, output, accepted)

    return await runs.streamed(call, start, _SESSION)


async def live_execute(call: Call) -> Response:
    """Run code once, its output as events; it ends when the page is left."""
    request = _execute_request(call, await read_form(call))

    async def start(output: Callable[[str, str], None], accepted: Callable[[], None]) -> RunResult:
        accepted()
        return await call.sessions.execute(request, output)

    return await runs.streamed(call, start, _ONCE)


_SESSION: Final[Shown] = _session_shown
_ONCE: Final[Shown] = _once_shown


# --- files ----------------------------------------------------------------------------------------


async def upload(call: Call) -> Response:
    """Store the files of a form; its fields come first, the token before all."""
    session_id, parts = call.session_id, Parts(call)
    fields: dict[str, str] = {}
    stored = 0
    while (part := await parts.next()) is not None:
        if part.filename is None:
            fields[part.name] = await parts.field()
            continue
        check_token(call, fields.get(TOKEN, ""))
        stored += await _store(call, session_id, parts, part, fields.get("folder", ""))
    check_token(call, fields.get(TOKEN, ""))
    if not stored:
        raise missing_field("file")
    return see(address(session_id, "#files"))


async def _store(call: Call, session_id: str, parts: Parts, part: Part, folder: str) -> int:
    """Store one file of a form; 0 for the empty place of a file that nobody chose."""
    if not part.filename:
        async for _ in parts.content():
            pass
        return 0
    path = joined(folder, part.filename)
    await call.sessions.put_file(session_id, path, parts.content(), chosen(part.content_type))
    return 1


async def remove_file(call: Call) -> Response:
    """Delete a file."""
    form = await read_form(call)
    await call.sessions.delete_file(call.session_id, form.get("path", ""))
    return see(address(call.session_id, "#files"))
