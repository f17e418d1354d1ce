"""Waiting with a limit, and doing things side by side, without a trace in the task that waits.

`asyncio.timeout` and `asyncio.TaskGroup` interrupt the task they run in by a request to cancel it, and
take the request back.  Early releases of Python 3.11 err in both: a group whose member fails while
the others are waited for leaves its request behind; a timeout that ends in a task with such a
request, or with one that was answered by cleaning up, raises CancelledError where TimeoutError was
promised.  All of the service waits through this module instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


def within(seconds: float | None) -> _Limit:
    """A context that lasts at most so long; None: for ever.

    Gives the `asyncio.Timeout`, which can be moved.  Raises TimeoutError.
    """
    return _Limit(asyncio.timeout(seconds))


def until(when: float | None) -> _Limit:
    """The same up to a time of the loop's clock."""
    return _Limit(asyncio.timeout_at(when))


class _Limit:
    """A timeout that counts only the requests to cancel that came while it lasted."""

    __slots__ = ("_before", "_task", "_timeout")

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._before = 0
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> asyncio.Timeout:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        return await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        expired = self._timeout.expired()
        await self._timeout.__aexit__(kind, error, trace)
        if expired and isinstance(error, asyncio.CancelledError):
            assert self._task is not None
            if self._task.cancelling() <= self._before:
                raise TimeoutError


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do everything at once, to the end of all; nothing of it goes on after the call.

    The first failure ends the others and is raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    await _settled(tasks, frozenset(tasks))


async def led(leader: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None]) -> None:
    """The same of two, of which the first takes the second with it when it ends.

    The second has its first turn first.
    """
    other, first = asyncio.ensure_future(beside), asyncio.ensure_future(leader)
    await _settled([first, other], frozenset({first}))


async def _settled(
    tasks: Iterable[asyncio.Future[None]], needed: frozenset[asyncio.Future[None]]
) -> None:
    failure: BaseException | None = None
    left = set(tasks)
    try:
        while needed & left and failure is None:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            failures = [it for it in map(_failure, done) if it is not None]
            failure = failures[0] if failures else None
    finally:
        await ended(left)
    if failure is not None:
        raise failure


def _failure(task: asyncio.Future[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still goes on, and wait until nothing of it does, however often the caller is
    cancelled itself meanwhile; that is then raised."""
    cancelled: asyncio.CancelledError | None = None
    tasks = tuple(tasks)
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    while left:
        try:
            _, left = await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
            left = {task for task in left if not task.done()}
    for task in tasks:
        _failure(task)  # looked at: asyncio complains of a failure that nobody has seen
    if cancelled is not None:
        raise cancelled
