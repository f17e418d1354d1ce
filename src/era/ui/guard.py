"""What every request of the dashboard passes: is it let in, and does it come from our own pages?

Boxes can show pages under this very origin (`/proxy`), so being of the same origin proves nothing.  A
page is given to a browser only to be shown by itself, never to a script, so that no other page reads
the token in it; and what changes something has to bring that token.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from starlette.responses import RedirectResponse, Response

from era.api.answers import error_body
from era.api.routing import OWN_CORS, Call, Handler
from era.errors import CODES, EraError, InternalError
from era.ui.entry import Entry, Visitor
from era.ui.render import PRIVATE, page

HOME: Final = "/ui"
SIGN_IN: Final = "/ui/login"
VISITOR: Final = "era.ui.visitor"
"""Who is shown a page.  Nobody, until it is certain that no other page's script can read the answer."""
_CLAIMED: Final = "era.ui.claimed"
"""Whom the headers of a request let in; a browser sends them for other pages of the origin, too."""
TOKEN: Final = "token"  # noqa: S105 - the name of a field
TOKEN_HEADER: Final = "x-era-token"  # noqa: S105 - the name of a header

_log = structlog.get_logger("era.http")


def foreign() -> EraError:
    """For a request that no page of the dashboard has sent."""
    return EraError("foreign_request")


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard, for one rule of who is let in."""

    entry: Entry

    def shows(self, handler: Handler) -> Handler:
        """`handler`, whose answers are pages or downloads."""
        return self._guarded(handler, _check_shown, self._as_page)

    def takes(self, handler: Handler) -> Handler:
        """`handler`, which is sent forms by pages; it checks their token itself, by `check_token`."""
        return self._guarded(handler, _check_sent, self._as_page)

    def serves(self, handler: Handler) -> Handler:
        """`handler`, which the script of pages calls."""
        return self._guarded(handler, _check_script, _as_json)

    def open(self, handler: Handler) -> Handler:
        """`handler`, a page for those who are not signed in."""

        @wraps(handler)
        async def handle(call: Call) -> Response | None:
            call.scope.update({OWN_CORS: True, VISITOR: Visitor()})
            try:
                return await handler(call)
            except EraError as error:
                return self._as_page(call, error)

        return handle

    def _visitor(self, call: Call) -> Visitor | None:
        cookies = [v.decode("latin-1") for name, v in call.scope["headers"] if name == b"cookie"]
        return self.entry.visitor(call.header("authorization"), cookies, call.now_ms)

    def _guarded(
        self,
        handler: Handler,
        check: Callable[[Call], None],
        refusal: Callable[[Call, EraError], Response],
    ) -> Handler:
        @wraps(handler)
        async def handle(call: Call) -> Response | None:
            call.scope[OWN_CORS] = True
            visitor = self._visitor(call)
            if visitor is None:
                return refusal(call, EraError("unauthorized"))
            call.scope.update({VISITOR: Visitor(), _CLAIMED: visitor})
            try:
                check(call)
                return await handler(call)
            except EraError as error:
                return refusal(call, error)

        return handle

    def _as_page(self, call: Call, error: EraError) -> Response:
        _note(call, error)
        visitor: Visitor | None = call.scope.get(VISITOR)
        if visitor is None:
            return see(SIGN_IN)
        return error_page(call, error)


def _as_json(call: Call, error: EraError) -> Response:
    """Left to the API, which answers errors in its own way."""
    raise error


def _note(call: Call, error: EraError) -> None:
    if isinstance(error, InternalError):
        _log.error("request failed", request_id=call.request_id, exc_info=error)


def error_page(call: Call, error: EraError) -> Response:
    """What went wrong, in the words of the API."""
    body = error_body(error)
    told = {
        "error": body["error"],
        "message": body.get("message") or body.get("details") or "",
        "hint": body.get("hint") or CODES[error.code].advice,
        "code": error.code,
        "status": error.status,
    }
    answer = shown(call, "error.html", told, status=error.status)
    if error.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(max(1, error.retry_after_seconds))
    return answer


def shown(call: Call, template: str, values: dict[str, Any], status: int = 200) -> Response:
    """A page for whoever asks."""
    visitor: Visitor = call.scope[VISITOR]
    return page(template, {**values, "visitor": visitor}, status)


def see(address: str) -> Response:
    """Go on there, with GET: what was sent is not sent again when the page is loaded anew."""
    return RedirectResponse(address, 303, PRIVATE)


def _check_shown(call: Call) -> None:
    """Browsers say what they want an answer for; only to show it by itself is it given."""
    _check_use(call)
    call.scope[VISITOR] = call.scope[_CLAIMED]


def _check_use(call: Call) -> None:
    if call.header("sec-fetch-dest") not in (None, "document"):
        raise foreign()


def _check_sent(call: Call) -> None:
    _check_use(call)
    check_origin(call)


def _check_script(call: Call) -> None:
    check_origin(call)
    check_token(call, call.header(TOKEN_HEADER))


def check_origin(call: Call) -> None:
    """Raises EraError `foreign_request` for what another site's page has sent."""
    site, origin = call.header("sec-fetch-site"), call.header("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise foreign()
    if origin is None:
        return
    own = (call.header("host"), urlsplit(call.base_url()).netloc)
    if urlsplit(origin).netloc.lower() not in [host.lower() for host in own if host]:
        raise foreign()


def check_token(call: Call, given: str | None) -> None:
    """Raises EraError `foreign_request` unless `given` is the token of the pages that this visitor
    was shown; after it there is somebody to be shown one."""
    visitor: Visitor = call.scope[_CLAIMED]
    if given is None or not hmac.compare_digest(given.encode(), visitor.token.encode()):
        raise foreign()
    call.scope[VISITOR] = visitor
