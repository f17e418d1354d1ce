"""What the asynchronous and the synchronous SDK do differently, in pairs of one shape.

The synchronous SDK is generated from the asynchronous one, with each `name_async` here replaced by
`name`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PIECE_BYTES: Final = 1 << 20
"""Read from a disk and sent at once."""

Local = str | os.PathLike[str]


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def sleep_async(seconds: float) -> None:
    """Wait, and let others go on."""
    import anyio

    await anyio.sleep(seconds)


def pieces(local: Local) -> Iterator[bytes]:
    """The bytes of a local file."""
    with open(local, "rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


async def pieces_async(local: Local) -> AsyncIterator[bytes]:
    """The bytes of a local file; another thread reads them."""
    from anyio import to_thread

    opened = await to_thread.run_sync(_open, local)
    with opened:
        while piece := await to_thread.run_sync(opened.read, PIECE_BYTES):
            yield piece


def _open(local: Local) -> IO[bytes]:
    return open(local, "rb")


def save(coming: Iterable[bytes], local: Local) -> None:
    """Write a local file from what comes; until all has come the old one stays."""
    with _replacing(local) as out:
        for piece in coming:
            out.write(piece)


async def save_async(coming: AsyncIterable[bytes], local: Local) -> None:
    """Write a local file from what comes; until all has come the old one stays."""
    from anyio import to_thread

    with _replacing(local) as out:
        async for piece in coming:
            await to_thread.run_sync(out.write, piece)


@contextmanager
def _replacing(local: Local) -> Iterator[IO[bytes]]:
    """A file beside `local` that takes its place at the end, with the rights new files get."""
    place = os.path.abspath(local)
    handle, name = tempfile.mkstemp(prefix=".era-", dir=os.path.dirname(place))
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        mask = os.umask(0o077)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, place)
    except BaseException:
        os.unlink(name)
        raise


def each(function: Callable[[T], R], items: Sequence[T], at_once: int) -> list[R]:
    """The results of `function` for every item, in order; at most so many at once."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(function, items))


async def each_async(
    function: Callable[[T], Awaitable[R]], items: Sequence[T], at_once: int
) -> list[R]:
    """The results of `function` for every item, in order; at most so many at once."""
    import anyio

    results: dict[int, R] = {}
    slots = anyio.Semaphore(at_once)

    async def one(index: int, item: T) -> None:
        async with slots:
            results[index] = await function(item)

    async with anyio.create_task_group() as tasks:
        for index, item in enumerate(items):
            tasks.start_soon(one, index, item)
    return [results[index] for index in range(len(items))]


def iterate(source: Any) -> Iterator[bytes]:
    """The pieces of any source of bytes."""
    yield from source


async def iterate_async(source: Any) -> AsyncIterator[bytes]:
    """The pieces of any source of bytes, asynchronous or not."""
    if isinstance(source, AsyncIterable):
        async for piece in source:
            yield piece
    else:
        for piece in source:
            yield piece
