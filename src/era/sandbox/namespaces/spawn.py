"""The server's side of the launcher: start it, speak with it, notice its end.

All of it runs in the server's event loop; nothing here forks the server: the launcher is started
through `subprocess` once, with a socket that it inherits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

import era
from era.errors import InternalError, UnavailableError
from era.sandbox.namespaces.child import wire
from era.sandbox.namespaces.memfile import sealed
from era.sandbox.plan import Foundation, encode
from era.waiting import within

_START_SECONDS: Final = 30.0
"""Far above the 50 ms a start takes; only a host in trouble needs longer."""
_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from era.sandbox.namespaces.child.launcher import main; main(int(sys.argv[2]))"
)


class LauncherLost(InternalError):  # noqa: N818 - named by what happened
    """The launcher ended unexpectedly; every box ended with it."""

    default_code = "execution_failed"


class Launcher:
    """One launcher process.  Events go to `on_event` in the order they come."""

    def __init__(self, on_event: Callable[[dict[str, Any], list[int]], None]) -> None:
        self._on_event = on_event
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._socket is not None and not self.lost.done()

    async def start(self, python: str, foundation: Foundation) -> None:
        """Start the process and wait until it can make boxes.

        Raises:
            UnavailableError: `isolation_unavailable`, with the step the kernel refused.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = os.path.dirname(os.path.dirname(os.path.abspath(era.__file__)))
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - once, at start
                [python, "-I", "-S", "-B", "-c", _PROGRAM, source, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._readable)
        plan = sealed("era-foundation", encode(foundation))
        try:
            wire.send(ours, {"request": "foundation"}, [plan])
        finally:
            os.close(plan)
        try:
            async with within(_START_SECONDS):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise UnavailableError(message="the launcher did not start in time") from None

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a request; raises LauncherLost when the launcher is gone."""
        if not self.alive:
            raise LauncherLost()
        assert self._socket is not None
        try:
            wire.send(self._socket, message, fds)
        except BlockingIOError:
            # Hundreds of requests are waiting unread: the launcher is stuck.  Say so.
            raise LauncherLost(hint="the launcher does not answer") from None
        except OSError:
            self._gone()
            raise LauncherLost() from None

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            message, fds = wire.receive(self._socket)
        except BlockingIOError:
            return
        except OSError:
            message, fds = None, []
        if message is None:
            self._gone()
        elif message["event"] == "ready":
            self._ready.set_result(None)
        elif message["event"] == "failed":
            if not self._ready.done():
                self._ready.set_exception(UnavailableError(message=str(message["reason"])))
        else:
            self._on_event(message, fds)

    def _gone(self) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        if not self._ready.done():
            self._ready.set_exception(UnavailableError(message="the launcher ended at start"))
            self._ready.exception()
        if not self.lost.done():
            self.lost.set_result(None)

    def give_up(self) -> None:
        """End a launcher that does not answer, and with it every box."""
        if self._process is not None:
            self._process.kill()
        if self._socket is not None:
            self._gone()

    async def close(self) -> None:
        """End the launcher and every box; returns when they are gone."""
        if self._socket is not None:
            self._gone()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
