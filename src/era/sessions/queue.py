"""Turns: one run of a session at a time, a bounded number of runs on the whole server, in order.

Everything here is for one event loop and never blocks it.  A place that is left by cancelling the
waiting task is free at once, and no turn is ever lost or given twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from era.errors import BusyError
from era.sessions.settings import QueueLimits


class Turnstile:
    """Lets `capacity` tasks in at a time; the others wait, first come first served."""

    __slots__ = ("_waiters", "capacity", "inside")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.inside = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiters)

    @property
    def free(self) -> bool:
        """Whether the next to come need not wait."""
        return self.inside < self.capacity and not self._waiters

    async def enter(self) -> bool:
        """Wait for a turn; pair with `leave`.  Whether it took any waiting."""
        if self.free:
            self.inside += 1
            return False
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same moment: then it is passed on.
            if turn.done() and not turn.cancelled():
                self.leave()
            raise
        finally:
            if turn in self._waiters:
                self._waiters.remove(turn)
        return True

    def leave(self) -> None:
        """Give the turn to the next."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.inside -= 1


class Queues:
    """The queues of all sessions and the slots of the server.

    A run first has the turn of its session, then a slot; waiting for the turn, it holds no slot.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._slots = Turnstile(limits.concurrent_runs)
        self._sessions: dict[int, Turnstile] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Runs that wait for anything, on the whole server."""
        return self._waiting

    def check(self, key: int | None, accepted: int = 0) -> None:
        """Whether one more run may come, for the session with the uid `key`, or for none.  `accepted`
        are those of the session that are not over: many at once are all on their way to the queue.

        Raises:
            BusyError: `session_queue_full` or `server_busy`.
        """
        queue = self._sessions.get(key) if key is not None else None
        waiting = max(-1 if queue is None else queue.waiting, accepted - 1)
        if waiting >= self._limits.waiting_per_session:
            raise BusyError("session_queue_full")
        if (queue is None or queue.free) and self._slots.free:
            return
        if self._waiting >= self._limits.waiting_runs:
            raise BusyError("server_busy")

    @asynccontextmanager
    async def turn(self, key: int) -> AsyncIterator[bool]:
        """Hold the turn of a session; gives whether it took any waiting."""
        queue = self._sessions.setdefault(key, Turnstile(1))
        with self.wait():
            waited = await queue.enter()
        try:
            yield waited
        finally:
            queue.leave()
            if not queue.inside:
                del self._sessions[key]

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[bool]:
        """Hold one of the server's slots; gives whether it took any waiting."""
        with self.wait():
            waited = await self._slots.enter()
        try:
            yield waited
        finally:
            self._slots.leave()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the caller as one that waits."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
