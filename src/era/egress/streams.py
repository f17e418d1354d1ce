"""One connected TCP socket, read and written with a bounded buffer; and the relay between two.

Plain non-blocking sockets rather than transports: a relay then holds exactly one chunk a direction
and reads nothing more before that is written (back-pressure reaches the sender through the kernel),
and a descriptor is closed the moment its owner leaves.

A turn of the event loop costs as much as copying 100 KiB.  So where much comes in little pieces, the
kernel is left to gather them for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from era.waiting import together, within

CHUNK: Final = 64 << 10
"""Bytes read at once."""
BULK_CHUNK: Final = 256 << 10
"""Bytes read at once of much: what a relay holds of a direction at most."""
_BULK_AFTER: Final = 256 << 10
"""Bytes that came without a pause: more are likely to follow."""
_GATHER_SECONDS: Final = 0.002


class HeadTooLargeError(Exception):
    """A peer sent more than the bound before the part that was waited for was complete."""


class Stream:
    """A connected, non-blocking socket and the bytes that were read too early.  Owns the socket.

    Safe for one reading and one writing task at a time.
    """

    __slots__ = ("_early", "_loop", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock: Final = sock
        self._loop: Final = asyncio.get_running_loop()
        self._early = b""

    @property
    def sock(self) -> socket.socket:
        """The socket, for asking it about itself."""
        return self._sock

    async def read(self) -> bytes:
        """The next bytes, at most `CHUNK`; empty at the end."""
        if self._early:
            early, self._early = self._early, b""
            return early
        return await self._loop.sock_recv(self._sock, CHUNK)

    def take(self, buffer: memoryview) -> int:
        """Fill `buffer` from its start with what is there already; how many bytes, 0 for none."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return self._sock.recv_into(buffer)
        return 0

    async def peek(self, bound: int, enough: Callable[[bytes], bool]) -> bytes:
        """Read until `enough` of what has come, or the end; the bytes stay to be read.

        Raises:
            HeadTooLargeError: `bound` bytes have come and it is still not enough.
        """
        seen = b""
        while not (seen and enough(seen)):
            if len(seen) >= bound:
                raise HeadTooLargeError
            more = await self.read()
            if not more:
                break
            seen += more
        self._early = seen
        return seen

    def unread(self, data: bytes) -> None:
        """Put `data` back, to be read first."""
        self._early = data + self._early

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`; returns when the kernel has taken it."""
        await self._loop.sock_sendall(self._sock, data)

    def end(self) -> None:
        """Say that nothing more will be written."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket.  No task may be reading or writing any more."""
        self._sock.close()

    async def linger(self, seconds: float, bound: int = CHUNK * 4) -> None:
        """End, then drop what still comes (at most `bound` bytes, `seconds` long): a socket closed
        over unread bytes resets the connection, and the last answer is lost."""
        self.end()
        with contextlib.suppress(OSError, TimeoutError):
            async with within(seconds):
                while bound > 0 and (dropped := await self.read()):
                    bound -= len(dropped)


class Deadline:
    """Pushes the end of an `asyncio.timeout` ahead while there is progress."""

    __slots__ = ("_loop", "_next", "_seconds", "_timeout")

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._timeout: Final = timeout
        self._seconds: Final = seconds
        self._loop: Final = asyncio.get_running_loop()
        self._next = 0.0

    def touch(self) -> None:
        """There was progress.  A timer is moved at most eight times within the idle time."""
        now = self._loop.time()
        if now >= self._next and not self._timeout.expired():
            self._timeout.reschedule(now + self._seconds)
            self._next = now + self._seconds / 8


async def _pump(source: Stream, sink: Stream, progress: Callable[[int], None]) -> None:
    clock = asyncio.get_running_loop().time
    passed, then = 0, clock()
    while data := await source.read():
        if clock() - then > _GATHER_SECONDS:
            passed = 0
        await sink.write(data)
        progress(len(data))
        passed += len(data)
        if passed >= _BULK_AFTER:
            await _pump_bulk(source, sink, progress)
            passed = 0
        then = clock()
    sink.end()


async def _pump_bulk(source: Stream, sink: Stream, progress: Callable[[int], None]) -> None:
    """Carry what comes as long as much does."""
    buffer = memoryview(bytearray(BULK_CHUNK))
    while True:
        await asyncio.sleep(_GATHER_SECONDS)
        if not (size := source.take(buffer)):
            return  # nothing in all that time; or the end, which a read shows again
        await sink.write(buffer[:size])
        progress(size)


async def relay(
    near: Stream, far: Stream, *, idle_seconds: float, count: Callable[[int, int], None]
) -> None:
    """Carry bytes both ways until both ends have ended, one broke, or nothing moved for
    `idle_seconds`.  `count(up, down)` is told the bytes as they pass.  Closes neither."""
    with contextlib.suppress(TimeoutError):
        async with within(idle_seconds) as timeout:
            deadline = Deadline(timeout, idle_seconds)

            def up(size: int) -> None:
                count(size, 0)
                deadline.touch()

            def down(size: int) -> None:
                count(0, size)
                deadline.touch()

            # Where one end is gone, that ends the other; both belong to the caller.
            with contextlib.suppress(OSError):
                await together(_pump(near, far, up), _pump(far, near, down))
