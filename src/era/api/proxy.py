"""`/proxy/{session_id}/{port}/{path}`: to a server that the session's run has, else to its stored code.

What a box says is not trusted: its answer is read within bounds, framed anew, and what would speak for
the whole origin (cookies, service workers) is kept to the part of it that is the session's.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import h11
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from era.api import relay
from era.api.answers import CutError, error_answer
from era.api.forward import HOPS, LIVE, where_it_runs
from era.api.keys import Keys
from era.api.origin import answer_headers
from era.api.peer import Headers, Peer, end_to_end, kept
from era.api.routing import OWN_CORS, REQUEST_ID, Call
from era.api.tunnel import connection_headers, upgrade_of
from era.errors import EraError, InputError, UnavailableError
from era.waiting import ended

_TARGET: Final = re.compile(rb"/([^/]+)/([^/]+)/(\d+)(/.*)?", re.DOTALL)
_FORWARDED: Final = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-prefix".split()
)
_OWN: Final = frozenset({b"x-request-id", b"content-length", HOPS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a request goes.  `path` is percent-encoded as it came, `prefix` what was before it."""

    session: str
    port: int
    path: bytes
    prefix: bytes


def target_of(scope: Scope) -> Target:
    """What the path of a request says.

    Raises:
        InputError: `invalid_proxy_path`, `invalid_port`.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    found = _TARGET.fullmatch(raw)
    if found is None:
        raise InputError("invalid_proxy_path", format="/proxy/{session_id}/{port}/{path}")
    _, session, port, path = found.groups()
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise InputError("invalid_port")
    # Bytes that no URI holds are written as one would.
    path = quote(path or b"/", safe="%/:?#[]@!$&'()*+,;=-._~\"<>\\^`{|}").encode()
    prefix = b"/proxy/%s/%d" % (session, int(port))
    return Target(session=session.decode("latin-1"), port=int(port), path=path, prefix=prefix)


async def proxy(call: Call) -> Response | None:
    """Answer by a server of the session's run, else by its stored code."""
    target = target_of(call.scope)
    call.scope["path_params"] = {"session_id": target.session}
    session_id = call.session_id
    record = (await call.sessions.get(session_id)).record
    if not (record.allow_public or Keys(call.options.api_keys).allow(call.header("authorization"))):
        hint = f'PATCH /api/sessions/{session_id} with {{"allowPublicAccess": true}}'
        raise EraError("public_access_disabled", hint=hint)
    return await where_it_runs(_here)(call)


async def _here(call: Call) -> Response | None:
    target, session_id = target_of(call.scope), call.session_id
    with ExitStack() as stack:
        stack.enter_context(call.options.places.taken(session_id))
        connection = await call.sessions.reach(session_id, target.port)
        if connection is not None:
            peer = await Peer.over(connection)
            stack.callback(peer.close)
            await _ask(call, target, peer)
            return Live(peer, call, target, stack.pop_all())
        if (await call.sessions.get(session_id)).record.has_code:
            told = relay.told(call, target.path, request_headers(call, target))
            return await relay.answered(call, told, target.prefix)
        if await call.sessions.serves(session_id):
            raise no_server(target.port)
    raise relay.no_code()


def no_server(port: int, message: str | None = None) -> UnavailableError:
    """Nobody answers on that port of the box, or not as HTTP wants it."""
    return UnavailableError("no_server", f"no server is listening on port {port}", message=message)


async def _ask(call: Call, target: Target, peer: Peer) -> None:
    """Send the head of the request."""
    query = call.scope.get("query_string")
    headers = request_headers(call, target) + _framing(call)
    try:
        request = h11.Request(
            method=call.scope["method"],
            target=target.path + (b"?" + query if query else b""),
            headers=headers,
        )
        await peer.send(request)
    except h11.LocalProtocolError as error:
        raise InputError(
            "invalid_body", "request cannot be passed on", message=str(error)
        ) from None
    except OSError:
        raise no_server(target.port, "the server closed the connection") from None


def request_headers(call: Call, target: Target) -> Headers:
    """The headers of a request as a server in a box gets them: without the key, and with where the
    request came from."""
    scope, options = call.scope, call.options
    keys = Keys(options.api_keys)
    headers = [
        (name, value)
        for name, value in kept(end_to_end(scope["headers"]), _OWN | _FORWARDED)
        if not (name == b"authorization" and keys.allow(value.decode("latin-1")))
    ]
    if all(name != b"host" for name, _ in headers):
        headers.append((b"host", b"localhost"))
    return [*headers, *_forwarded(call, target), (b"x-request-id", scope[REQUEST_ID].encode())]


def _forwarded(call: Call, target: Target) -> Headers:
    """Who asked, and by which address; what the request says itself of that counts only where a proxy
    before this server is trusted."""
    client = (call.scope.get("client") or ("",))[0]
    base = call.base_url()
    scheme, _, host = base.partition("://")
    prefix = target.prefix.decode("latin-1")
    came = client
    if call.options.trust_proxy:
        before = call.header("x-forwarded-for")
        came = f"{before}, {client}" if before else client
        prefix = (call.header("x-forwarded-prefix") or "").rstrip("/") + prefix
    values = {"for": came, "host": call.header("host") or host, "proto": scheme, "prefix": prefix}
    if call.options.trust_proxy:
        values["host"] = call.header("x-forwarded-host") or values["host"]
    return [
        (b"x-forwarded-" + name.encode(), value.encode("latin-1"))
        for name, value in values.items()
        if value
    ]


def _framing(call: Call) -> Headers:
    """How the body is framed, and whether the connection is to become another protocol's."""
    headers: Headers = []
    length, chunked = call.header("content-length"), call.header("transfer-encoding")
    if chunked is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    elif length is not None:
        headers.append((b"content-length", length.encode("latin-1")))
    return [*headers, *connection_headers(call.scope)]


class Live(Response):
    """What a server in a box answers, as it comes."""

    def __init__(self, peer: Peer, call: Call, target: Target, held: ExitStack) -> None:
        super().__init__()
        self._peer = peer
        self._call = call
        self._target = target
        self._held = held
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body of the request on, and the answer back, until either side leaves."""
        with self._held:
            up = asyncio.ensure_future(self._up(scope, receive))
            down = asyncio.ensure_future(self._down(scope, send))
            try:
                await self._both(up, down)
            except (OSError, EOFError, h11.ProtocolError):
                await self._broken(scope, receive, send)
            finally:
                await ended((up, down))
            if down.done() and not down.cancelled() and down.exception() is None:
                await self._switched(scope, down.result())

    async def _both(self, up: asyncio.Future[None], down: asyncio.Future[Any]) -> None:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        # One that no longer listens may have answered all the same.
        if not down.done() and up.exception() is not None:
            await asyncio.wait((down,))
        if down.done():
            down.result()

    async def _up(self, scope: Scope, receive: Receive) -> None:
        """Send the body; over when the client has left."""
        has_body = any(n in (b"content-length", b"transfer-encoding") for n, _ in scope["headers"])
        more = has_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if message.get("body"):
                await self._peer.send(h11.Data(data=message["body"]))
            more = message.get("more_body", False)
        await self._peer.send(h11.EndOfMessage())
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _down(self, scope: Scope, send: Send) -> h11.InformationalResponse | None:
        """Pass the answer on; what it switches to another protocol by, if it does."""
        while True:
            message = await self._peer.next()
            if isinstance(message, h11.Response):
                await self._begin(scope, send, message)
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

    async def _begin(self, scope: Scope, send: Send, answer: h11.Response) -> None:
        if answer.status_code > 599:
            raise EOFError
        self._begun = True
        scope[OWN_CORS] = True
        headers = answer_headers(answer.headers, self._target.prefix)
        if self._call.header(HOPS.decode()) is not None:
            headers.append((LIVE, b"1"))
        status = answer.status_code
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _switched(self, scope: Scope, answer: h11.InformationalResponse | None) -> None:
        """Carry what is no HTTP any more."""
        tunnel = upgrade_of(scope)
        if answer is None or tunnel is None:
            return
        headers = answer_headers(answer.headers, self._target.prefix)
        headers.append((b"x-request-id", scope[REQUEST_ID].encode()))
        await tunnel.switch(headers, self._peer)

    async def _broken(self, scope: Scope, receive: Receive, send: Send) -> None:
        """There is no (whole) answer."""
        if self._begun:
            raise CutError
        message = "the server closed the connection, or its answer is not proper HTTP"
        error = error_answer(no_server(self._target.port, message))
        await error(scope, receive, send)
