"""`Blobs` at a Worker: each session's bytes in R2 below the session's name, and a local copy."""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from era.errors import InternalError, NotFoundError
from era.storage.base import Blob, Export
from era.storage.blobs.local import LocalBlobs
from era.storage.blobs.shelf import BLOCK, Shelf
from era.storage.worker.client import StateClient


@dataclass(frozen=True, slots=True)
class Place:
    """A session at the Worker; `uid` names this life of its id."""

    session_id: str
    uid: int

    def __str__(self) -> str:
        return f"{self.session_id}/{self.uid}"


class Bytes(Protocol):
    """The bytes that records refer to, to and from the Worker.  Blocking."""

    def send(self, client: StateClient, place: Place, blob: str) -> bool:
        """Have the Worker keep `blob` for a session; False when it is not here."""

    def copy(self, client: StateClient, source: Place, place: Place, blob: str) -> bool:
        """Have the Worker take it from another session; False when it is not there."""

    def forget(self, client: StateClient, place: Place, blob: str) -> None:
        """Have the Worker delete it from a session."""


class LocalBytes:
    """`Bytes` from the directory of a local store."""

    def __init__(self, root: str) -> None:
        self._shelf: Final = Shelf(root, time.time, durable=False)

    def send(self, client: StateClient, place: Place, blob: str) -> bool:
        """See `Bytes.send`."""
        try:
            fd = self._shelf.open(blob)
        except NotFoundError:
            return False
        try:
            size = os.fstat(fd).st_size
            path = _path(client, place, blob)
            reply = client.call("PUT", path, partial(_blocks, fd, size), size=size)
        finally:
            os.close(fd)
        if reply.status >= 300:
            raise InternalError(text=f"a file could not be stored (status {reply.status})")
        return True

    def copy(self, client: StateClient, source: Place, place: Place, blob: str) -> bool:
        """See `Bytes.copy`."""
        path = _path(client, place, blob, **{"from": str(source)})
        return client.call("PUT", path).status < 300

    def forget(self, client: StateClient, place: Place, blob: str) -> None:
        """See `Bytes.forget`."""
        client.call("DELETE", _path(client, place, blob))


def _path(client: StateClient, place: Place, blob: str, **query: str) -> str:
    return client.session(place.session_id, "blobs", blob, uid=str(place.uid), **query)


def _blocks(fd: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size and (block := os.pread(fd, min(BLOCK, size - at), at)):
        yield block
        at += len(block)


class WorkerBlobs:
    """Keeps `era.storage.base.Blobs`: what is here is a copy, and comes from the Worker when it is not.

    What is stored becomes lasting with the commit that refers to it, which uploads it first.  `where`
    names a session that has a blob.
    """

    def __init__(
        self,
        local: LocalBlobs,
        client: StateClient,
        where: Callable[[str], Awaitable[Place | None]],
    ) -> None:
        self._local: Final = local
        self._client: Final = client
        self._where: Final = where

    async def put(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        """See `Blobs.put`."""
        return await self._local.put(chunks, limit=limit)

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        """See `Blobs.put_fds`."""
        return await self._local.put_fds(fds)

    async def open(
        self, blob: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Blobs.open`."""
        await self._have(blob)
        async with aclosing(self._local.open(blob, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def export(self, items: Iterable[Export]) -> None:
        """See `Blobs.export`."""
        wanted = tuple(items)
        for blob in dict.fromkeys(item.blob for item in wanted):
            await self._have(blob)
        await self._local.export(wanted)

    async def exists(self, blob: str) -> bool:
        """See `Blobs.exists`."""
        return await self._local.exists(blob) or await self._where(blob) is not None

    async def delete(self, blob: str, *, age_seconds: float = 0) -> bool:
        """See `Blobs.delete`: the copy here.  The Worker's goes with the session's last use of it."""
        return await self._local.delete(blob, age_seconds=age_seconds)

    async def older_than(self, age_seconds: float) -> AsyncIterator[str]:
        """See `Blobs.older_than`."""
        async for blob in self._local.older_than(age_seconds):
            yield blob

    async def tidy(self, age_seconds: float) -> None:
        """See `Blobs.tidy`."""
        await self._local.tidy(age_seconds)

    async def close(self) -> None:
        """See `Blobs.close`."""
        await self._local.close()
        self._client.close()

    async def _have(self, blob: str) -> None:
        """Fetch a blob unless it is here; whoever reads it says that it is nowhere."""
        if await self._local.exists(blob):
            return
        place = await self._where(blob)
        if place is None:
            return
        stored = await self._local.put(self._fetched(place, blob))
        if stored.hash != blob:
            raise InternalError(text="a blob came with other bytes than it has")

    async def _fetched(self, place: Place, blob: str) -> AsyncIterator[bytes]:
        chunks: queue.Queue[bytes] = queue.Queue(4)
        path = _path(self._client, place, blob)

        def fetch() -> None:
            try:
                self._client.call("GET", path, into=chunks.put)
            finally:
                chunks.put(b"")

        job = asyncio.ensure_future(asyncio.to_thread(fetch))
        while chunk := await asyncio.to_thread(chunks.get):
            yield chunk
        await job
