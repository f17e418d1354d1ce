"""`Blobs` in memory; what it exports are real files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable

from era.errors import InternalError, TooLargeError, file_not_found
from era.storage.base import Blob, Export

MIB = 1024 * 1024


class MemoryBlobs:
    """Keeps `era.storage.base.Blobs` for as long as it lives."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bytes: dict[str, bytes] = {}
        self._stored_at: dict[str, float] = {}
        self.closed = False

    def _keep(self, data: bytes) -> Blob:
        name = hashlib.sha256(data).hexdigest()
        self._bytes[name] = data
        self._stored_at[name] = self._clock()
        return Blob(hash=name, size=len(data))

    async def put(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        data = b""
        async for chunk in chunks:
            data += chunk
            if limit is not None and len(data) > limit:
                raise TooLargeError("file_too_large", limit)
        return self._keep(data)

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        await asyncio.sleep(0)
        return tuple(self._keep(read_all(fd)) for fd in fds)

    async def open(self, blob: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        if blob not in self._bytes:
            raise file_not_found()
        data = self._bytes[blob][start:end]
        for at in range(0, len(data), MIB):
            yield data[at : at + MIB]

    async def export(self, items: Iterable[Export]) -> None:
        await asyncio.sleep(0)
        for item in items:
            if item.blob not in self._bytes:
                raise file_not_found()
            place(item, self._bytes[item.blob])

    async def exists(self, blob: str) -> bool:
        await asyncio.sleep(0)
        return blob in self._bytes

    async def delete(self, blob: str, *, age_seconds: float = 0) -> bool:
        await asyncio.sleep(0)
        if blob in self._bytes and self._clock() - self._stored_at[blob] < age_seconds:
            return False
        self._bytes.pop(blob, None)
        return True

    async def older_than(self, age_seconds: float) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        for blob in list(self._bytes):
            if self._clock() - self._stored_at[blob] >= age_seconds:
                yield blob

    async def tidy(self, age_seconds: float) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.closed = True


def read_all(fd: int) -> bytes:
    data = b""
    while chunk := os.pread(fd, MIB, len(data)):
        data += chunk
    return data


def place(item: Export, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(item.name, flags, 0o600, dir_fd=item.dir_fd)
    except FileExistsError as error:
        raise InternalError(text="a file to be placed exists already") from error
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        if item.owner is not None:
            os.fchown(fd, item.owner, item.owner)
        os.fchmod(fd, item.mode & 0o777)
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
