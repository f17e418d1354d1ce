"""`Blobs` in a local directory.

All system calls run on a few threads of the store's own, a whole batch in one call.  A cancelled
caller waits until its call is over, because the thread may be using the caller's descriptors.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from era.errors import InternalError, TooLargeError
from era.storage.base import Blob, Export
from era.storage.blobs.shelf import BLOCK, Draft, Shelf, translated

P = ParamSpec("P")
R = TypeVar("R")

THREADS: Final = 8
"""Calls at once: enough to overlap flushes, few enough to leave the processors to the boxes."""


class LocalBlobs:
    """Keeps `era.storage.base.Blobs` below `root`, which is made when missing.

    `clock` is the time in seconds that the age of blobs is measured against.  Not `durable`: a power
    failure may take anything that was stored.

    Raises:
        InternalError: the directory cannot be used.
        UnavailableError: `storage_full`.
    """

    def __init__(
        self, root: str, *, clock: Callable[[], float] = time.time, durable: bool = True
    ) -> None:
        try:
            self._shelf: Final = Shelf(root, clock, durable=durable)
        except OSError as error:
            raise translated(error) from error
        self._pool: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="era-blobs")
        self._closed = False

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)

    async def put(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        """See `Blobs.put`."""
        draft, waiting, size = Draft(self._shelf), bytearray(), 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLargeError("file_too_large", limit)
                waiting += chunk
                if len(waiting) >= BLOCK:
                    await self._run(draft.write, bytes(waiting))
                    waiting.clear()
            return await self._run(self._shelf.store, draft, bytes(waiting))
        finally:
            draft.close()

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        """See `Blobs.put_fds`."""
        return await self._run(self._shelf.store_files, fds)

    async def open(
        self, blob: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Blobs.open`."""
        reader = _Reader()
        try:
            size = await self._run(reader.open, self._shelf, blob)
            end = size if end is None else min(end, size)
            while start < end:
                data = await self._run(os.pread, reader.fd, min(BLOCK, end - start), start)
                if not data:
                    raise InternalError(text="a blob is shorter than it was")
                yield data
                start += len(data)
        finally:
            reader.close()

    async def export(self, items: Iterable[Export]) -> None:
        """See `Blobs.export`."""
        await self._run(self._shelf.export, tuple(items))

    async def exists(self, blob: str) -> bool:
        """See `Blobs.exists`."""
        return await self._run(self._shelf.size, blob) is not None

    async def delete(self, blob: str, *, age_seconds: float = 0) -> bool:
        """See `Blobs.delete`."""
        return await self._run(self._shelf.delete, blob, age_seconds)

    async def older_than(self, age_seconds: float) -> AsyncIterator[str]:
        """See `Blobs.older_than`."""
        for shard in await self._run(self._shelf.shards):
            for blob in await self._run(self._shelf.aged, shard, age_seconds):
                yield blob

    async def tidy(self, age_seconds: float) -> None:
        """See `Blobs.tidy`: a broken off write leaves nothing behind, or a draft that goes at the next
        start."""

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `work` on a thread; not over before it is, cancelled or not."""
        if self._closed:
            raise InternalError(text="the store of blobs is closed")
        job = asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await _outlast(job)
            raise
        except OSError as error:
            raise translated(error) from error


class _Reader:
    """A descriptor that a thread opens and that is closed whatever happens to whoever asked."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = -1

    def open(self, shelf: Shelf, blob: str) -> int:
        """Open; the size of the blob."""
        self.fd = shelf.open(blob)
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


async def _outlast(job: asyncio.Future[R]) -> None:
    """Wait for `job` however often the waiting is cancelled; its failure is nobody's any more."""
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError:
            continue
    if not job.cancelled():
        job.exception()
