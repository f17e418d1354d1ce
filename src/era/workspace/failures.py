"""What a failing host file system means to a caller, told without any path of the host."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, ParamSpec, TypeVar

from era.errors import InternalError, UnavailableError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def translated() -> Iterator[None]:
    """Turn OSError into UnavailableError `storage_full` or InternalError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UnavailableError("storage_full") from error
        raise InternalError from error


async def threaded(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, called on a thread; always over before this is, see `settled`."""
    loop = asyncio.get_running_loop()
    return await settled(loop.run_in_executor(None, partial(work, *args, **kwargs)))


async def settled(work: Awaitable[T]) -> T:
    """The result of `work`, which always ends before this does, also when the caller is cancelled.

    A thread cannot be cancelled, and it uses descriptors that the caller closes afterwards: it
    must not meet another file under their numbers.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio reports nothing
        raise
