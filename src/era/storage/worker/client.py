"""HTTP to the Worker that keeps the state.  Blocking: called on threads of the stores' own."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from era.errors import InternalError, UnavailableError

_SECONDS: Final = 120.0
_BLOCK: Final = 1 << 20
_TRIES: Final = 3
_TOO_LARGE: Final = 413
_FULL: Final = 507

Body = bytes | Callable[[], Iterator[bytes]]
"""Bytes, or what gives them from the beginning each time it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its status, the revision it names (0 for none), its bytes."""

    status: int
    revision: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class StateClient:
    """Speaks to the Worker at `url`; any number of threads may.

    Every request may be sent again when the connection breaks: each names what it expects to find,
    or the commit it is, so that it has its effect once.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._tls: Final = parts.scheme == "https"
        self._host: Final = parts.hostname or ""
        self._port: Final = parts.port
        self._base: Final = parts.path.rstrip("/")
        self._headers: Final = {"Authorization": f"Bearer {token}"}
        self._lock: Final = threading.Lock()
        self._idle: Final[list[http.client.HTTPConnection]] = []

    def session(self, session_id: str, *more: str, **query: str) -> str:
        """The path of a session's record, or of what is below it."""
        path = "/".join(("/sessions", quote(session_id, safe=""), *more))
        return f"{path}?{urlencode(query)}" if query else path

    def call(
        self,
        method: str,
        path: str,
        body: Body = b"",
        *,
        size: int | None = None,
        headers: dict[str, str] | None = None,
        into: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """Send and read one request; the bytes of a 200 go to `into` where that is given.

        Raises:
            InternalError: the Worker does not answer, or refuses the token.
            UnavailableError: `storage_full`.
        """
        length = len(body) if isinstance(body, bytes) else size
        sent = {**self._headers, **(headers or {}), "Content-Length": str(length or 0)}
        for attempt in range(_TRIES):
            try:
                reply = self._once(method, self._base + path, body, sent, into)
            except (OSError, http.client.HTTPException) as error:
                self.close()  # the others were left as long, and are as likely closed over there
                if attempt + 1 == _TRIES:
                    raise InternalError(text="the state of sessions cannot be reached") from error
                continue
            if reply.status < 500 or attempt + 1 == _TRIES:
                return _checked(reply)
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        path: str,
        body: Body,
        headers: dict[str, str],
        into: Callable[[bytes], None] | None,
    ) -> Reply:
        connection = self._connection()
        content = b""
        try:
            sent = body if isinstance(body, bytes) else body()
            connection.request(method, path, body=sent, headers=headers)
            answer = connection.getresponse()
            if into is not None and answer.status == 200:
                while chunk := answer.read(_BLOCK):
                    into(chunk)
            else:
                content = answer.read()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        revision = (answer.headers.get("ETag") or "").strip('"')
        return Reply(
            status=answer.status,
            revision=int(revision) if revision.isdecimal() else 0,
            body=content,
        )

    def _connection(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=_SECONDS)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle[:] = list(self._idle), []
        for connection in idle:
            connection.close()


def _checked(reply: Reply) -> Reply:
    if reply.status == _TOO_LARGE:
        message = "one change is more than the platform takes at once: change fewer files in a run"
        raise UnavailableError("storage_full", message=message)
    if reply.status == _FULL:
        raise UnavailableError("storage_full")
    if reply.status >= 500 or reply.status in (401, 403):
        raise InternalError(text=f"the state of sessions cannot be used (status {reply.status})")
    return reply
