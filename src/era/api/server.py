"""The HTTP server around the application: uvicorn, told when to end, with bounded request heads.

uvicorn bounds neither the length of a request's head nor the time it may take; `Connection` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Generator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from era.api.answers import error_answer
from era.api.door import Headers
from era.api.tunnel import TUNNEL, Tunnel
from era.errors import InputError
from era.ids import new_token

MAX_HEAD_BYTES: Final = 64 << 10
"""Of a request line with its headers, and of anything else that is not body: far above what
clients send, and all that an unfriendly one can make the server keep."""
HEAD_SECONDS: Final = 60.0
"""From the first byte of a request (or the connection) to the end of its headers."""
LAST_ANSWERS_SECONDS: Final = 2
"""When the server ends: for answers that are on their way to slow clients."""
BACKLOG: Final = 2048


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unused_bytes = 0
        self._used = False
        self._deadline: asyncio.TimerHandle | None = None
        self._tunnel: Tunnel | None = None
        self._latest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request has to come in time."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_clock()
        if self._tunnel is not None:
            self._tunnel.feed_eof()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; end a connection that only sends what is never of use."""
        if self._tunnel is not None:
            self._tunnel.feed(data)
            return
        self._used, self._latest = False, data
        super().data_received(data)
        self._unused_bytes = 0 if self._used else self._unused_bytes + len(data)
        if self._unused_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too large.")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as any other wrong request, and end the connection."""
        # An answer that is under way cannot be followed by another to what came after it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_malformed(self.app, msg))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """The request asks for another protocol (uvicorn calls this while it handles the parser's
        word of that): what comes after its head is not parsed but kept for who takes it."""
        paused = sys.exception()
        cycle, flow = self.cycle, self.flow
        cycle.keep_alive = False
        self._tunnel = Tunnel(self.transport, flow.drain, lambda: _leave(cycle))
        if paused is not None and paused.args:
            self._tunnel.feed(self._latest[paused.args[0] :])
        extensions: dict[str, Any] = {TUNNEL: self._tunnel}
        cycle.scope["extensions"] = extensions

    def on_message_begin(self) -> None:
        """A request begins."""
        self._start_clock()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A whole head has come."""
        self._used = True
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._used = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A whole request has come."""
        self._used = True
        super().on_message_complete()

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def _leave(cycle: RequestResponseCycle) -> None:
    """The answer is written by another."""
    cycle.disconnected = True


def _malformed(app: Any, reason: str) -> bytes:
    """The whole answer to a request that could not be read; its headers are unknown."""
    error = InputError("invalid_body", reason.rstrip("."), hint="Send a valid HTTP/1.1 request.")
    answer = error_answer(error, {"X-Request-Id": new_token(), "Connection": "close"})
    cors: Headers = app.state.cors({"headers": []}) if hasattr(app, "state") else []
    lines = [b"%s: %s\r\n" % header for header in (*answer.raw_headers, *cors)]
    return b"HTTP/1.1 400 Bad Request\r\n%s\r\n%s" % (b"".join(lines), answer.body)


class Server(uvicorn.Server):
    """uvicorn, ending when `should_exit` is set and not by signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the process's owner."""
        yield


def server(app: Any) -> Server:
    """A server for the application; `serve(sockets=[...])` runs it."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
    )
    return Server(config)
