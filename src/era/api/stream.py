"""Server-sent events: the output of a run as it comes, and its result at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from era import wire
from era.api.body import disconnected
from era.errors import EraError, InternalError
from era.models import RunResult
from era.waiting import within

SILENCE_SECONDS: Final = 15.0
"""After this long without an event a comment shows that the connection is alive."""
_PING: Final = b": ping\n\n"
_HEADERS: Final = {"Cache-Control": "no-cache", "Connection": "keep-alive"}

_log = structlog.get_logger("era.http")

Run = asyncio.Future[RunResult]


Shown = Callable[[RunResult], dict[str, Any]]
"""How a result is shown."""


def session_run(result: RunResult) -> dict[str, Any]:
    """The result of a run in a session."""
    return wire.run_object(result, session=True)


class Feed:
    """Events on their way to one client.  What waits in it is bounded by the cap on output."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()

    def output(self, stream: str, text: str) -> None:
        """A piece of output."""
        self._events.put_nowait(event(stream, {"type": stream, "content": text}))

    def end(self, *_: Any) -> None:
        """Nothing more comes."""
        self._events.put_nowait(None)

    async def next(self) -> bytes | None:
        """The next event, a comment after a long silence, None at the end."""
        try:
            async with within(SILENCE_SECONDS):
                return await self._events.get()
        except TimeoutError:
            return _PING


def event(name: str, data: dict[str, Any]) -> bytes:
    """One event.  Compact JSON holds no line break, so its data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), wire.encode(data))


def last_event(run: Run, request_id: str | None, shown: Shown = session_run) -> bytes:
    """What a finished run comes to: `done` with its result, or `error`."""
    error = InternalError() if run.cancelled() else run.exception()
    if error is None:
        result = shown(run.result())
        del result["stdout"], result["stderr"]
        return event("done", {"type": "done", "content": "", **result})
    if not isinstance(error, EraError) or isinstance(error, InternalError):
        _log.error("request failed", request_id=request_id, exc_info=error)
        error = EraError(error.code if isinstance(error, EraError) else "internal")
    body = {"type": "error", "content": "", **error.body()}
    return event("error", body)


class EventStream(Response):
    """The events of `feed` while `run` goes on.  A client that leaves cancels its wait for it."""

    media_type = "text/event-stream"
    charset = ""

    def __init__(
        self, run: Run, feed: Feed, request_id: str | None, shown: Shown = session_run
    ) -> None:
        self._run = run
        self._feed = feed
        self._request_id = request_id
        self._shown = shown
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, "Content-Type": "text/event-stream"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the run is over or the client gone."""
        self._run.add_done_callback(self._feed.end)
        watch = asyncio.ensure_future(disconnected(receive))
        watch.add_done_callback(self._feed.end)
        try:
            await self._send_all(send)
        finally:
            watch.cancel()
            self._run.cancel()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        while (piece := await self._feed.next()) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._run.done():
            last = last_event(self._run, self._request_id, self._shown)
            await send({"type": "http.response.body", "body": last})
