"""The pages that show: the overview, sessions, one session, a file, and where code is run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from era.api import media
from era.api.routes import files as api_files
from era.api.routes import service
from era.api.routing import Call
from era.errors import NotFoundError
from era.models import FileEntry, FileKind, RunResult, SessionView, SetupState
from era.sessions.service import Sessions
from era.ui.guard import shown
from era.ui.render import PRIVATE

SESSIONS_SHOWN: Final = 50
FILES_SHOWN: Final = 100
VIEW_BYTES: Final = 256 << 10
"""How much of a file is shown; the rest can be downloaded."""
_DOWNLOAD_POLICY: Final = "sandbox; default-src 'none'"


async def overview(call: Call) -> Response:
    """Health, isolation, limits, counts."""
    health = await service.state(call)
    sessions = call.sessions
    count = (await sessions.list(limit=1)).total
    limits = [*_of_runs(call), *_of_requests(call)]
    return shown(call, "overview.html", {"health": health, "count": count, "limits": limits})


def _of_runs(call: Call) -> list[tuple[str, str, Any]]:
    """Each limit as its name, how it is to be shown, and its value."""
    limits = call.sessions.limits
    runs, queues = limits.runs, limits.queues
    return [
        ("Timeout of a run, by default", "seconds", runs.timeout_seconds),
        ("Timeout of a run, at most", "seconds", runs.max_timeout_seconds),
        ("Memory of a run", "size", runs.memory_mib << 20),
        ("CPUs of a run", "plain", runs.cpus),
        ("Processes of a run", "plain", runs.pids),
        ("Disk of a run", "size", runs.disk_bytes),
        ("Output kept of each stream", "size", runs.output_bytes),
        ("Runs at once", "plain", queues.concurrent_runs),
        ("Runs that may wait", "plain", queues.waiting_runs),
    ]


def _of_requests(call: Call) -> list[tuple[str, str, Any]]:
    bounds, quota = call.options.bounds, call.sessions.limits.quota
    return [
        ("Code", "size", bounds.code_bytes),
        ("Data of a session", "size", bounds.data_bytes),
        ("One file", "size", bounds.file_bytes),
        ("Files of a session, together", "size_or_none", quota.total_bytes),
        ("Files of a session", "plain_or_none", quota.count),
    ]


async def listed(call: Call) -> Response:
    """Sessions, a page at a time, in the order of the API."""
    prefix, limit = call.query("prefix") or "", call.limit() or SESSIONS_SHOWN
    found = await call.sessions.list(prefix=prefix, limit=limit, cursor=call.query("cursor"))
    following = {"cursor": found.next_cursor, "prefix": prefix, "limit": call.query("limit")}
    values = {
        "sessions": found.items,
        "total": found.total,
        "prefix": prefix,
        "paged": call.query("cursor") is not None,
        "next": _following(following) if found.next_cursor else None,
        "form": {},
        "problem": None,
    }
    return shown(call, "sessions.html", values)


def _following(query: dict[str, str | None]) -> str:
    return "?" + urlencode({name: value for name, value in query.items() if value})


async def session(call: Call) -> Response:
    """One session."""
    return shown(call, "session.html", await about(call, call.session_id))


async def about(call: Call, session_id: str) -> dict[str, Any]:
    """What the page of a session shows."""
    view = await call.sessions.get(session_id)
    cursor = call.query("files")
    page = await call.sessions.files(session_id, limit=FILES_SHOWN, cursor=cursor)
    return {
        "session": view.record,
        "view": view,
        "files": [_listed(entry) for entry in page.items],
        "files_total": page.total,
        "files_size": page.total_size_bytes,
        "files_paged": cursor is not None,
        "files_next": _following({"files": page.next_cursor}) if page.next_cursor else None,
        "setup": _setup(view.record.setup),
        "waiting": _is_waiting(view),
        "form": {"code": await _stored_code(call.sessions, view)},
        "result": None,
        "timeout": call.sessions.limits.runs,
    }


def _listed(entry: FileEntry) -> dict[str, Any]:
    link = entry.kind is FileKind.LINK
    return {**asdict(entry), "path": str(entry.path), "target": entry.target if link else None}


def _is_waiting(view: SessionView) -> bool:
    setup = view.record.setup
    return setup is not None and not setup.status.finished


def _setup(setup: SetupState | None) -> dict[str, Any] | None:
    if setup is None:
        return None
    return {
        "status": setup.status.value,
        "finished": setup.status.finished,
        "progress": None if setup.status.finished else setup.progress,
        "request": setup.request,
        "result": setup.result if setup.status.finished else None,
    }


async def _stored_code(sessions: Sessions, view: SessionView) -> str:
    if not view.record.has_code:
        return ""
    try:
        return (await sessions.code(view.record.id)).code
    except NotFoundError:  # it has just been removed
        return ""


async def file(call: Call) -> Response:
    """The text of a file, as far as it is shown."""
    session_id, path = call.session_id, await call.file_path()
    opened = await call.sessions.open_file(session_id, path)
    size = opened.entry.size
    raw = b""
    if size:
        async for piece in opened.read(0, min(size, VIEW_BYTES)):
            raw += piece
    values = {
        "session_id": session_id,
        "path": str(path),
        "entry": opened.entry,
        "binary": b"\0" in raw,
        "text": raw.decode("utf-8", "replace"),
        "cut": size > VIEW_BYTES,
        "shown_bytes": VIEW_BYTES,
    }
    return shown(call, "file.html", values)


async def download(call: Call) -> Response:
    """The bytes of a file, to be saved: whatever it is, it never becomes a page of this origin."""
    path = await call.file_path()
    answer = api_files.answer_file(call, path, await call.sessions.open_file(call.session_id, path))
    answer.headers.update({**PRIVATE, "Content-Security-Policy": _DOWNLOAD_POLICY})
    answer.headers["Content-Disposition"] = media.attachment(path)
    return answer


async def run(call: Call) -> Response:
    """Where code is run once."""
    return shown(call, "run.html", {**once(call), "form": {}, "result": None})


def once(call: Call) -> dict[str, Any]:
    """What the page for code that is run once shows besides the form."""
    return {"timeout": call.sessions.limits.runs}


async def missing(_call: Call) -> Response:
    """What there is no page for."""
    raise NotFoundError()


def outcome(result: RunResult) -> str:
    """In words, how a program ended."""
    if result.oom_killed:
        return "killed: out of memory"
    if result.timed_out:
        return "killed: timed out"
    if result.cancelled:
        return "cancelled"
    if result.signal is not None:
        return f"ended by {result.signal}"
    return "succeeded" if result.exit_code == 0 else "failed"
