"""The paths of the dashboard, and what guards each of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.responses import Response

from era.api.forward import where_it_is, where_it_runs
from era.api.routes import code, runs
from era.api.routing import OWN_CORS, Area, Call, Handler, Operation
from era.errors import NotFoundError
from era.ui import actions, pages
from era.ui.entry import Entry
from era.ui.guard import HOME, Guard, see
from era.ui.render import PRIVATE, STATIC, static_file
from era.ui.signing import Signing

_HTML: Final = "text/html"
_SESSION: Final = "/ui/sessions/{session_id}"
_LIVE: Final = "/ui/live/sessions/{session_id}"


def dashboard(api_keys: Iterable[str]) -> Area:
    """The dashboard of a service that has these keys; without any all are let in, as by the API."""
    entry = Entry(api_keys)
    guard, signing = Guard(entry), Signing(entry)
    found = [
        *_shown(guard),
        *_taken(guard),
        *_called(guard),
        _get("/ui/login", guard.open(signing.ask), "Ask for a key"),
        _post("/ui/login", guard.open(signing.check), "Sign in"),
        _post("/ui/logout", guard.takes(signing.leave), "Sign out"),
        _get("/ui/static/{name}", static, "Style and script"),
        _get("/ui/", _home, "The overview"),
        _get("/ui/{rest:path}", guard.shows(pages.missing), "No page"),
    ]
    return Area(prefix=HOME, operations=tuple(found))


def _get(path: str, handler: Handler, summary: str) -> Operation:
    return Operation(method="GET", path=path, handler=handler, summary=summary, answer=_HTML)


def _post(path: str, handler: Handler, summary: str) -> Operation:
    return Operation(method="POST", path=path, handler=handler, summary=summary, answer=_HTML)


def _shown(guard: Guard) -> Iterable[Operation]:
    """Pages and downloads."""
    table: tuple[tuple[str, Handler, str], ...] = (
        (HOME, pages.overview, "Health, isolation and limits"),
        ("/ui/sessions", pages.listed, "Sessions"),
        (_SESSION, pages.session, "A session"),
        (f"{_SESSION}/files/{{path:path}}", pages.file, "The text of a file"),
        (f"{_SESSION}/download/{{path:path}}", pages.download, "The bytes of a file"),
        ("/ui/run", pages.run, "Where code is run once"),
    )
    return [_get(path, guard.shows(handler), summary) for path, handler, summary in table]


def _taken(guard: Guard) -> Iterable[Operation]:
    """Forms.  What concerns a run goes to the server that has the session, as in the API."""
    table: tuple[tuple[str, Handler, str], ...] = (
        ("/ui/sessions", actions.create, "Create a session"),
        (f"{_SESSION}/delete", where_it_is(actions.delete), "Delete a session"),
        (f"{_SESSION}/run", where_it_runs(actions.run), "Run code in a session"),
        (f"{_SESSION}/cancel", where_it_is(actions.cancel), "End the run in progress"),
        (f"{_SESSION}/setup", actions.retry, "Run the setup again"),
        (f"{_SESSION}/upload", actions.upload, "Store files"),
        (f"{_SESSION}/remove", actions.remove_file, "Delete a file"),
        ("/ui/run", actions.execute, "Run code once"),
    )
    return [_post(path, guard.takes(handler), summary) for path, handler, summary in table]


def _called(guard: Guard) -> Iterable[Operation]:
    """What the script of the pages calls."""
    return [
        _post(
            f"{_LIVE}/run",
            guard.serves(where_it_runs(actions.live_run)),
            "Run code, its output as events",
        ),
        _post(f"{_LIVE}/cancel", guard.serves(where_it_is(runs.cancel)), "End the run"),
        _get(f"{_LIVE}/setup", guard.serves(code.get_setup), "How the setup stands"),
        _get(_LIVE, guard.serves(pages.session), "A session, as it is now"),
        _post("/ui/live/run", guard.serves(actions.live_execute), "Run code once, as events"),
    ]


async def static(call: Call) -> Response:
    """One of the package's own files; its address changes when it does."""
    call.scope[OWN_CORS] = True
    name = call.scope["path_params"]["name"]
    if name not in STATIC:
        raise NotFoundError()
    headers = {**PRIVATE, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(static_file(name), 200, headers, STATIC[name])


async def _home(_call: Call) -> Response:
    return see(HOME)
