"""Signing in with an API key, and out."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from starlette.responses import Response

from era.api.body import whole
from era.api.routing import Call
from era.ui.entry import Entry, Guesses, set_cookie
from era.ui.forms import fields_of, read_form
from era.ui.guard import HOME, SIGN_IN, check_origin, see, shown

_log = structlog.get_logger("era.http")


@dataclass(frozen=True, slots=True)
class Signing:
    """The page that asks for a key; nobody is sent anywhere but to the overview from it."""

    entry: Entry
    guesses: Guesses = field(default_factory=Guesses)

    async def ask(self, call: Call) -> Response:
        """The page, unless nothing has to be asked."""
        return see(HOME) if not self.entry.needed else _asked(call)

    async def check(self, call: Call) -> Response:
        """Let in whoever sends a key."""
        check_origin(call)
        place, now_ms = client_of(call), call.now_ms
        if wait := self.guesses.wait_seconds(place, now_ms):
            answer = _asked(call, f"Too many wrong keys. Try again in {wait} s.", 429)
            answer.headers["Retry-After"] = str(wait)
            return answer
        async with whole(call.scope, call.receive, 64 << 10, call.options.buffer) as raw:
            key = fields_of(raw).get("key", "").strip()
        value = self.entry.cookie(key, now_ms) if key else None
        if value is None:
            self.guesses.was_wrong(place, now_ms)
            _log.warning("wrong key at the dashboard", request_id=call.request_id, client=place)
            return _asked(call, "This is not a key of the service.", 401)
        return _with_cookie(call, HOME, value)

    async def leave(self, call: Call) -> Response:
        """Take the cookie away."""
        await read_form(call)
        return _with_cookie(call, SIGN_IN, "")


def _asked(call: Call, problem: str | None = None, status: int = 200) -> Response:
    return shown(call, "login.html", {"problem": problem}, status)


def _with_cookie(call: Call, address: str, value: str) -> Response:
    answer = see(address)
    secure = call.base_url().startswith("https://")
    answer.headers.append("Set-Cookie", set_cookie(value, secure=secure))
    return answer


def client_of(call: Call) -> str:
    """Where a request comes from: the last address that a trusted proxy names, else the peer."""
    named = (call.header("x-forwarded-for") or "").rsplit(",", 1)[-1].strip()
    if call.options.trust_proxy and named:
        return named
    return str((call.scope.get("client") or ("",))[0])
