"""Connections to servers inside boxes.

The launcher makes sockets in the network namespace of a box and hands them out; the server, which
stays in its own, connects them.  Where such a socket can get is decided by the namespace it was made
in: to the loopback of that box.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from era.sandbox.namespaces.child.box import DNS_PORT, PROXY_PORT, TRANSPARENT_PORT
from era.sandbox.namespaces.spawn import Launcher
from era.waiting import within

EGRESS_PORTS: Final = frozenset({DNS_PORT, PROXY_PORT, TRANSPARENT_PORT})
"""Where the service's own way out listens in boxes that have one: nobody comes in there."""
CONNECT_SECONDS: Final = 1.0
"""A loopback answers at once, unless the server there has stopped accepting."""
_ANSWER_SECONDS: Final = 5.0
"""The launcher answers in microseconds; one that does not has stopped, or ends."""
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Calls:
    """Requests for sockets that the launcher has not answered yet."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[list[int]]] = {}
        self._numbers = itertools.count(1)

    async def sockets(self, launcher: Launcher, run: int) -> list[socket.socket]:
        """Sockets inside the network of a run; none when it has ended.

        Raises:
            LauncherLost: the launcher is gone.
        """
        number = next(self._numbers)
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            launcher.send({"request": "dial", "run": run, "call": number})
            await asyncio.wait({answer}, timeout=_ANSWER_SECONDS)
            found = answer.result() if answer.done() else []
        except asyncio.CancelledError:
            if answer.done():
                _close(answer.result())
            raise
        finally:
            self._waiting.pop(number, None)
        return [socket.socket(fileno=fd) for fd in found]

    def answered(self, number: int, fds: list[int]) -> None:
        """What the launcher sent for a request."""
        answer = self._waiting.pop(number, None)
        if answer is None:
            _close(fds)
        else:
            answer.set_result(fds)

    def forget(self) -> None:
        """The launcher is gone and answers nothing."""
        for answer in self._waiting.values():
            answer.set_result([])
        self._waiting.clear()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


async def connected(sockets: Sequence[socket.socket], port: int) -> socket.socket:
    """The first of `sockets` that gets a connection to `port`; the others are closed.

    Raises:
        OSError: nobody listens there, or whoever does accepts nothing.
    """
    found: socket.socket | None = None
    failure: OSError | None = None
    try:
        for sock in sockets:
            sock.setblocking(False)
            try:
                await _connect(sock, port)
            except OSError as error:
                failure = failure or error
            else:
                found = sock
                return sock
    finally:
        for sock in sockets:
            if sock is not found:
                sock.close()
    raise failure or ConnectionRefusedError


async def _connect(sock: socket.socket, port: int) -> None:
    with suppress(OSError):  # small pieces are not held back
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with within(CONNECT_SECONDS):
        address = (_LOOPBACK[sock.family], port)
        await asyncio.get_running_loop().sock_connect(sock, address)
