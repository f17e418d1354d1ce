"""How much room a directory takes on the disk, and an eye on it while it grows."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from era.workspace import beneath
from era.workspace.failures import settled

_TICK_SECONDS: Final = 0.2
_ENTRY_BYTES: Final = 256
"""What an entry takes even when it is empty: an inode."""
_BEYOND: Final = 1 << 62
"""Of what is too deep to be looked at."""


def size_of(directory: str) -> int:
    """Bytes that everything in a directory takes on its disk.  No link is followed; a file with
    several names counts once for each."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    size, below = 0, [b""]
    try:
        while below:
            at = below.pop()
            try:
                fd = beneath.open_dir(root, at or b".")
            except FileNotFoundError:  # it is being written to
                continue
            try:
                for name, info in beneath.iterate(fd):
                    size += info.st_blocks * 512 + _ENTRY_BYTES
                    if stat.S_ISDIR(info.st_mode):
                        below.append(b"%b/%b" % (at, name) if at else name)
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _BEYOND
    finally:
        os.close(root)
    return size


class Watch:
    """While it is entered, calls `stop` once the directory takes more than `limit_bytes`.

    The whole disk's use is asked often, which costs nothing; the directory is measured only when
    the disk has filled by enough.  It is for installers that we trust not to hide what they write:
    code of strangers writes where the kernel holds the bound.
    """

    def __init__(self, directory: str, limit_bytes: int, stop: Callable[[], None]) -> None:
        self.exceeded = False
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._stop = stop
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()

    async def _look(self) -> None:
        size, then = 0, self._used()
        while not self.exceeded:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._used()
            if size + now - then > self._limit_bytes:
                size = await settled(asyncio.to_thread(size_of, self._directory))
                then = now
                self.exceeded = size > self._limit_bytes
        self._stop()

    def _used(self) -> int:
        disk = os.statvfs(self._directory)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize
