"""Calls and resources: which handler serves a path, and what a handler gets.

Paths are matched while still percent-encoded and each part is decoded exactly once, as UTF-8; so a
file may be named `a#b`, `a?b` or `a%2e`, and an encoded slash never moves a path elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

import structlog
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from era.api import body
from era.api.answers import error_answer
from era.api.options import Options
from era.errors import (
    EraError,
    InputError,
    InternalError,
    invalid_field,
    session_not_found,
    vm_not_found,
)
from era.ids import is_session_id, is_vm_id, vm_key
from era.relpath import RelPath, user_path

if TYPE_CHECKING:
    from era.sessions.service import Sessions

T = TypeVar("T")

MAX_PAGE: Final = 1000
REQUEST_ID: Final = "era.request_id"
"""Where the door leaves the request's id in the scope."""
OWN_CORS: Final = "era.own_cors"
"""Set in the scope of a request whose answer has CORS headers of its own, or none on purpose."""
ANY: Final = "ANY"
"""The method of an operation that takes all."""
_UNRESERVED: Final = "-._~"

_log = structlog.get_logger("era.http")


def canonical_path(raw_path: bytes) -> str:
    """A request path with every escape either undone or written one way, still encoded.

    `/%68ealth` is `/health`; `%2f`, `%23` and bytes that are not ASCII stay escapes.  Collections
    are the same with a slash at the end.
    """
    path = raw_path.decode("latin-1")
    if "%" in path or not path.isascii():
        parts = raw_path.split(b"/")
        path = "/".join(quote(unquote_to_bytes(part), safe=_UNRESERVED) for part in parts)
    # A slash too many at the end means the same collection; in the name of a file it is an error.
    if path.endswith("/") and path.startswith("/api/") and "/files/" not in path:
        return path[:-1]
    return path


class Call:
    """One request on its way through a handler."""

    def __init__(self, sessions: Sessions, options: Options, scope: Scope, receive: Receive):
        self.sessions: Final = sessions
        self.options: Final = options
        self.scope: Final = scope
        self.receive: Final = receive

    @property
    def head(self) -> bool:
        """Whether only the headers of the answer are wanted."""
        return bool(self.scope["method"] == "HEAD")

    @property
    def request_id(self) -> str | None:
        """The id of the request, for the log."""
        found: str | None = self.scope.get(REQUEST_ID)
        return found

    @property
    def now_ms(self) -> int:
        """The time of the service."""
        return self.options.clock()

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        wanted = name.encode()
        for key, value in self.scope["headers"]:
            if key == wanted:
                return cast("bytes", value).decode("latin-1")
        return None

    @cached_property
    def _query(self) -> Mapping[str, str]:
        text = self.scope["query_string"].decode("latin-1")
        return dict(reversed(parse_qsl(text, keep_blank_values=True, errors="replace")))

    def query(self, name: str) -> str | None:
        """The first query parameter of that name; an empty one counts as absent."""
        return self._query.get(name) or None

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes (`1` or `true`)."""
        return (self.query(name) or "").lower() in ("1", "true")

    def limit(self) -> int | None:
        """The `limit` of a list.

        Raises:
            InputError: `invalid_field`.
        """
        text = self._query.get("limit")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
            raise invalid_field("limit", f"an integer from 1 to {MAX_PAGE}")
        return int(text)

    @property
    def session_id(self) -> str:
        """The session that the path names.

        Raises:
            NotFoundError: `session_not_found`, for an id that no session can have.
        """
        text = unquote(self.scope["path_params"]["session_id"])
        if not is_session_id(text):
            raise session_not_found()
        return text

    @property
    def vm_id(self) -> str:
        """The managed VM that the path names.

        Raises:
            NotFoundError: `vm_not_found`, for an id that no VM can have.
        """
        text = unquote(self.scope["path_params"]["vm_id"])
        if not is_vm_id(text):
            raise vm_not_found()
        return text

    @property
    def place_id(self) -> str:
        """What the path names, as the service's servers know it: a session, or a VM.

        Raises:
            NotFoundError: `session_not_found` or `vm_not_found`.
        """
        if "vm_id" in self.scope["path_params"]:
            return vm_key(self.vm_id)
        return self.session_id

    async def _must_exist(self) -> None:
        if "vm_id" in self.scope["path_params"]:
            await self.sessions.vms.get(self.vm_id)
        else:
            await self.sessions.get(self.session_id)

    async def file_path(self) -> RelPath:
        """The workspace path that the path names, decoded once.

        Raises:
            InputError: `invalid_path`, `reserved_path`; but an unknown session or VM comes first.
            NotFoundError: `session_not_found`, `vm_not_found`.
        """
        try:
            text = unquote(self.scope["path_params"]["path"], errors="strict")
            return user_path(text)
        except UnicodeDecodeError:
            await self._must_exist()
            raise InputError("invalid_path", details="the path is not valid UTF-8") from None
        except InputError:
            await self._must_exist()
            raise

    async def object(self, build: Callable[..., T], *args: Any, nulls: bool = False) -> T:
        """`build(members, *args)` of the JSON object of the request's body.

        Members that are null are absent, or kept.  `build` may run in a thread.
        """

        def built(members: dict[str, Any]) -> T:
            given = members if nulls else {n: v for n, v in members.items() if v is not None}
            return build(given, *args)

        options = self.options
        limit = options.bounds.body_bytes
        return await body.read_object(self.scope, self.receive, limit, built, options.buffer)

    def again(self, content: bytes, *, session_id: str = "", **changes: Any) -> Call:
        """This request with a body that has been read in the place of its own, about a session or
        with other changes of its scope."""
        kept = [
            (name, value)
            for name, value in self.scope["headers"]
            if name not in (b"content-length", b"transfer-encoding", b"content-encoding")
        ]
        headers = [*kept, (b"content-length", str(len(content)).encode())]
        scope = {**self.scope, "headers": headers, **changes}
        if session_id:
            scope["path_params"] = {"session_id": session_id}
        return Call(self.sessions, self.options, scope, _replayed(content, self.receive))

    def base_url(self) -> str:
        """`<base>`: scheme and authority under which clients reach this server."""
        if self.options.public_url:
            return self.options.public_url.rstrip("/")
        scheme, host = self.scope.get("scheme", "http"), self.header("host")
        if self.options.trust_proxy:
            scheme = _first(self.header("x-forwarded-proto")) or scheme
            host = _first(self.header("x-forwarded-host")) or host
        return f"{scheme}://{host or _server(self.scope)}"


def _replayed(content: bytes, receive: Receive) -> Receive:
    """A body again; after it whatever else comes, which is that the client has gone."""
    waiting = [content]

    async def next_message() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return next_message


def _first(header: str | None) -> str:
    return (header or "").split(",", 1)[0].strip()


def _server(scope: Scope) -> str:
    host, port = scope.get("server") or ("127.0.0.1", None)
    return f"{host}:{port}" if port else str(host)


Handler = Callable[[Call], Awaitable[Response | None]]
"""Serves one call; None when the client has gone and nobody reads an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path, and what the OpenAPI document says about it.

    `body` is the model of a JSON body, or True for raw bytes.  `query` maps parameters to what
    they do.  `errors` are codes besides those that every operation may answer.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[BaseModel] | str
    """Model of the JSON answer, or a media type."""
    status: int = 200
    body: type[BaseModel] | bool | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    others: Mapping[int, tuple[str, type[BaseModel] | None]] = field(default_factory=dict)
    """Answers that are neither `answer` nor an error of the tree: what they are, and their model."""
    open: bool = False
    """Whether it is served without an API key; one for any method has a rule of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What is served below one path without being part of the API; it says itself who is let in."""

    prefix: str
    operations: tuple[Operation, ...]

    def holds(self, path: str) -> bool:
        """Whether a path is the area's."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")


class Resource:
    """An ASGI application for one path: a handler for each method, JSON errors for the rest."""

    def __init__(
        self, path: str, sessions: Sessions, options: Options, handlers: Mapping[str, Handler]
    ) -> None:
        self.path: Final = path
        self._sessions = sessions
        self._options = options
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]
        self._allow = ", ".join(sorted({*self._handlers, "OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        answer = await self._answer(scope, receive)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        handler = self._handlers.get(scope["method"]) or self._handlers.get(ANY)
        if handler is None:
            return self._refusal(EraError("method_not_allowed"), {"Allow": self._allow})
        try:
            return await handler(Call(self._sessions, self._options, scope, receive))
        except InternalError as error:
            _log.error("request failed", request_id=scope.get(REQUEST_ID), exc_info=error)
            return self._refusal(error)
        except body.StalledError as error:
            return self._refusal(error, {"Connection": "close"})
        except EraError as error:
            return self._refusal(error)
        except body.ClientGoneError:
            return None

    def _refusal(self, error: EraError, headers: Mapping[str, str] | None = None) -> Response:
        return error_answer(error, headers, path=self.path)
