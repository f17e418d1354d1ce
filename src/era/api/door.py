"""The door every request passes: request id, CORS, API keys, refusal while stopping, the log line.

It is the error boundary too: whatever a handler raises that it should not, is logged with the
request id, and the client gets `internal error` and nothing more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from era.api.answers import CutError, error_answer
from era.api.keys import Keys
from era.api.options import Options
from era.api.rest import Rest
from era.api.routing import OWN_CORS, REQUEST_ID, Area, canonical_path
from era.api.tunnel import TUNNEL, Tunnel
from era.errors import EraError, InternalError, UnavailableError
from era.ids import new_token

METHODS: Final = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
EXPOSED: Final = b"Retry-After, X-Request-Id, ETag, Location"
CLIENT_GONE: Final = 499
"""Logged as the status of a request whose client left before its answer."""
SWITCHED: Final = 101
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_OPEN_PATHS: Final = frozenset({"/", "/health"})

Headers = list[tuple[bytes, bytes]]

_log = structlog.get_logger("era.http")


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def _authorization(scope: Scope) -> str | None:
    found = _header(scope, b"authorization")
    return None if found is None else found.decode("latin-1")


class Origins:
    """Which origins browsers may call from."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._listed = {origin.encode() for origin in origins}
        self._any = b"*" in self._listed

    def headers(self, scope: Scope) -> Headers:
        """The CORS headers of every answer."""
        if self._any:
            return [_ANY_ORIGIN, _EXPOSE]
        origin = _header(scope, b"origin")
        if origin is None or origin not in self._listed:
            return [_VARY, _EXPOSE]
        return [(b"access-control-allow-origin", origin), _VARY, _EXPOSE]


_ANY_ORIGIN: Final = (b"access-control-allow-origin", b"*")
_EXPOSE: Final = (b"access-control-expose-headers", EXPOSED)
_VARY: Final = (b"vary", b"Origin")


def preflight(scope: Scope) -> Response:
    """The answer to OPTIONS on any path."""
    asked = _header(scope, b"access-control-request-headers")
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": (asked or b"Content-Type, Authorization").decode("latin-1"),
        "Access-Control-Max-Age": "86400",
    }
    return Response(status_code=204, headers=headers)


class Door:
    """Pure ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, options: Options, areas: Iterable[Area] = ()) -> None:
        self._app = app
        self._options = options
        self._areas = tuple(areas)
        self._keys = Keys(options.api_keys)
        self._origins = Origins(options.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other protocols are not spoken."""
        if scope["type"] == "http":
            await _Passage(self, scope, receive, send).pass_through()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def refusal(self, scope: Scope) -> EraError | None:
        """Why a request is not let in."""
        if self._options.stopping():
            return UnavailableError("shutting_down")
        if not self._keys or self._is_open(scope) or self._keys.allow(_authorization(scope)):
            return None
        return EraError("unauthorized")

    def _is_open(self, scope: Scope) -> bool:
        """Whether the door lets a request pass without a key: it is for all, or others ask for it."""
        path: str = scope["path"]
        if scope["method"] in ("GET", "HEAD") and path in _OPEN_PATHS:
            return True
        return path.startswith("/proxy/") or any(area.holds(path) for area in self._areas)

    def cors(self, scope: Scope) -> Headers:
        """The CORS headers of this answer."""
        return self._origins.headers(scope)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: preflight, refusal, or the application."""
        if scope["method"] == "OPTIONS":
            await preflight(scope)(scope, receive, send)
        elif (refusal := self.refusal(scope)) is not None:
            await error_answer(refusal, path=scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_switched(scope: Scope) -> bool:
    """Whether the connection has become another protocol's."""
    tunnel: Tunnel | None = (scope.get("extensions") or {}).get(TUNNEL)
    return tunnel is not None and tunnel.used


class _Passage:
    """One request passing the door."""

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        given = _header(scope, b"x-request-id")
        sane = given is not None and _SANE_ID.fullmatch(given)
        self.request_id = given.decode() if given and sane else new_token()
        self._door = door
        self._scope = {
            **scope,
            "path": canonical_path(raw_path),
            REQUEST_ID: self.request_id,
        }
        rest = Rest(scope, receive, send)
        self._receive: Receive = rest.receive
        self._send: Send = rest.send
        self._status: int | None = None
        self._cut_body = scope["method"] == "HEAD"

    async def pass_through(self) -> None:
        """Serve the request; never raises on account of a handler."""
        started = time.perf_counter()
        try:
            await self._door.serve(self._scope, self._receive, self._out)
        except CutError:
            pass  # returning cuts the connection
        except Exception as error:  # noqa: BLE001 - the boundary: logged here, told to nobody
            await self._fail(error)
        finally:
            self._record(time.perf_counter() - started)

    async def _fail(self, error: Exception) -> None:
        _log.error("request failed", request_id=self.request_id, exc_info=error)
        # Once the answer has begun its status is out; returning makes the server cut the
        # connection, which tells the client that the answer is not whole.
        if self._status is None:
            answer = error_answer(InternalError(), path=self._scope["path"])
            await answer(self._scope, self._receive, self._out)

    async def _out(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            extra = [(b"x-request-id", self.request_id.encode())]
            if not self._scope.get(OWN_CORS):
                extra += self._door.cors(self._scope)
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        elif self._cut_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    def _record(self, seconds: float) -> None:
        resource = self._scope.get("endpoint")
        _log.info(
            "request",
            request_id=self.request_id,
            method=self._scope["method"],
            route=getattr(resource, "path", None),
            status=self._status or (SWITCHED if _is_switched(self._scope) else CLIENT_GONE),
            ms=round(seconds * 1000, 1),
        )
