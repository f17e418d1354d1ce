"""A request for a session that another server has is passed on to that server, and its answer back.

Nothing of the body is read before it is known where the request belongs, so it streams through, and
so does the answer.  What was sent once is never sent again: a run must not happen twice.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import wraps
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from era.api.answers import CutError, error_answer
from era.api.peer import HOP_BY_HOP, Headers, Peer, kept
from era.api.routing import OWN_CORS, REQUEST_ID, Call, Handler
from era.api.stream import event
from era.api.tunnel import connection_headers, upgrade_of
from era.errors import EraError, InternalError, NotFoundError, UnavailableError
from era.waiting import within

HOPS: Final = b"x-era-hops"
LIVE: Final = b"x-era-live"
"""Between servers: an answer of a server in a box, whose own CORS headers are to be kept."""
MAX_HOPS: Final = 3
"""A session may move while a request is on its way, but not for ever."""
CONNECT_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 0.2
_OWN: Final = frozenset({*HOP_BY_HOP, b"x-request-id", HOPS})
"""Headers that are about one connection, and those that are set anew."""
_ANSWERED_BY_DOOR: Final = frozenset({b"x-request-id", b"vary", b"date", b"server"})

_log = structlog.get_logger("era.http")


def where_it_runs(handler: Handler) -> Handler:
    """`handler`, called by the server that has the session; this one takes it when nobody does."""

    @wraps(handler)
    async def handle(call: Call) -> Response | None:
        sessions, ttl = call.sessions, call.sessions.takeover_seconds
        if ttl is None:
            return await handler(call)
        deadline = time.monotonic() + ttl + CONNECT_SECONDS
        while True:
            async with sessions.place(call.place_id) as address:
                if address is None:
                    return await handler(call)
            passed = await _passed(call, address)
            if passed is not None:
                return passed
            if time.monotonic() > deadline:
                raise UnavailableError("session_busy", retry_after_seconds=max(1, round(ttl)))
            # It does not answer: it has ended, and its time will soon be over.
            await asyncio.sleep(_AGAIN_SECONDS)

    return handle


def where_it_is(handler: Handler) -> Handler:
    """`handler`, called by the server that has the session, if one has it and can be reached."""

    @wraps(handler)
    async def handle(call: Call) -> Response | None:
        if call.sessions.takeover_seconds is not None:
            with suppress(NotFoundError):
                address = await call.sessions.holder(call.place_id)
                passed = None if address is None else await _passed(call, address)
                if passed is not None:
                    return passed
        return await handler(call)

    return handle


async def _passed(call: Call, address: str) -> Response | None:
    """The answer of the server at `address`; None when it cannot be reached."""
    hops = int(call.header(HOPS.decode()) or 0) + 1 if _counts(call) else 1
    if hops > MAX_HOPS:
        raise UnavailableError("session_busy", retry_after_seconds=1)
    target = urlsplit(address)
    try:
        async with within(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(target.hostname, target.port)
    except (OSError, TimeoutError):
        return None
    return Passed(Peer(reader, writer), call, address, hops)


def _counts(call: Call) -> bool:
    given = call.header(HOPS.decode())
    return given is not None and given.isascii() and given.isdigit() and len(given) < 3


Up = asyncio.Future[None]
Down = asyncio.Future[h11.InformationalResponse | None]


class Passed(Response):
    """What another server answers, as it comes."""

    def __init__(self, peer: Peer, call: Call, address: str, hops: int) -> None:
        super().__init__()
        self._peer = peer
        self._call = call
        self._address = address
        self._hops = hops
        self._begun = False
        self._streams_events = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the request, then the answer; until the client has gone."""
        # The body as the call has it: it may have been read already to learn where it belongs.
        up = asyncio.ensure_future(self._up(self._call.scope, self._call.receive))
        down = asyncio.ensure_future(self._down(send))
        try:
            switched = await self._both(up, down, scope, receive, send)
            if switched is not None:
                await self._switched(scope, switched)
        finally:
            self._peer.close()

    async def _both(
        self, up: Up, down: Down, scope: Scope, receive: Receive, send: Send
    ) -> h11.InformationalResponse | None:
        """Wait for the end of the answer; what it switches to another protocol by, if it does."""
        try:
            return await self._patient(up, down)
        except (OSError, h11.ProtocolError, EOFError) as error:
            _log.warning("another server was lost", address=self._address, exc_info=error)
            await self._broken(scope, receive, send)
            return None
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _switched(self, scope: Scope, answer: h11.InformationalResponse) -> None:
        """Carry what is no HTTP any more, until either side leaves."""
        tunnel = upgrade_of(scope)
        if tunnel is not None:
            headers = kept(answer.headers, _OWN | _ANSWERED_BY_DOOR)
            headers.append((b"x-request-id", scope[REQUEST_ID].encode()))
            with suppress(OSError):
                await tunnel.switch(headers, self._peer)

    async def _patient(self, up: Up, down: Down) -> h11.InformationalResponse | None:
        """Wait for the end of the answer, for as long as the other server has the session."""
        ttl = self._call.sessions.takeover_seconds or CONNECT_SECONDS
        missing = 0
        while not down.done():
            waiting: set[asyncio.Future[Any]] = {down} if up.done() else {up, down}
            await asyncio.wait(waiting, timeout=ttl / 3, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and up.exception() is None:
                return None  # the client has gone
            if down.done():
                break
            # Looked at again: an answer may be on its way from one that has just let go of it.
            missing = 0 if await self._is_there() else missing + 1
            if missing > 2:
                raise EOFError
        return down.result()

    async def _is_there(self) -> bool:
        try:
            return await self._call.sessions.holder(self._call.place_id) == self._address
        except NotFoundError:
            return True  # deleted: it will say so
        except EraError:
            return True  # unknown

    async def _up(self, scope: Scope, receive: Receive) -> None:
        """Send the request; over when the client has left, however much was sent by then."""
        peer = self._peer
        headers = [*kept(scope["headers"], _OWN), *self._about(scope)]
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        target = scope.get("raw_path") or scope["path"].encode()
        if scope.get("query_string"):
            target += b"?" + scope["query_string"]
        request = h11.Request(method=scope["method"], target=target, headers=headers)
        await peer.send(request)
        more = has_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if message.get("body"):
                await peer.send(h11.Data(data=message["body"]))
            more = message.get("more_body", False)
        await peer.send(h11.EndOfMessage())
        while (await receive())["type"] != "http.disconnect":
            pass

    def _about(self, scope: Scope) -> Headers:
        names = {name for name, _ in scope["headers"]}
        about = [
            (HOPS, str(self._hops).encode()),
            (b"x-request-id", scope[REQUEST_ID].encode()),
            *connection_headers(scope),
        ]
        if b"transfer-encoding" in names:
            about.append((b"transfer-encoding", b"chunked"))
        return about

    async def _down(self, send: Send) -> h11.InformationalResponse | None:
        """Pass the answer on; what it switches to another protocol by, if it does."""
        while True:
            message = await self._peer.next()
            if isinstance(message, h11.Response):
                headers = list(message.headers)
                if any(name == LIVE for name, _ in headers):
                    self._call.scope[OWN_CORS] = True
                self._streams_events = any(
                    name == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in headers
                )
                self._begun = True
                start = {"type": "http.response.start", "status": message.status_code}
                await send({**start, "headers": self._answer_headers(headers)})
            elif isinstance(message, h11.Data):
                body = bytes(message.data)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif isinstance(message, h11.EndOfMessage):
                await send({"type": "http.response.body", "body": b""})
                return None
            elif not isinstance(message, h11.InformationalResponse):
                raise EOFError
            elif message.status_code == 101:
                return message

    def _answer_headers(self, headers: Headers) -> Headers:
        """Without what this server's door adds itself."""
        if self._call.scope.get(OWN_CORS):
            return kept(headers, _OWN | _ANSWERED_BY_DOOR - {b"vary"})
        return [
            (name, value)
            for name, value in kept(headers, _OWN | _ANSWERED_BY_DOOR)
            if not name.startswith(b"access-control-")
        ]

    async def _broken(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The other server was lost before its answer was complete."""
        error = InternalError(
            "execution_failed",
            message="the server that had the session was lost; what was not committed is not kept",
        )
        if not self._begun:
            await error_answer(error)(scope, receive, send)
        elif self._streams_events:
            last = event("error", {"type": "error", "content": "", **error.body()})
            await send({"type": "http.response.body", "body": last})
        else:
            raise CutError
