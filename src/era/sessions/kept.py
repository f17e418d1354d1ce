"""Directories that are kept on this machine until they are too many: a bounded cache.

Each is complete or not there: it is made under another name, and renamed.  Deleting one costs time,
never data.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from era.sessions import folders
from era.workspace.failures import settled

_SIZE: Final = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be kept; what was used longest ago is removed first."""

    size_bytes: int
    count: int


class Kept:
    """The directories below `root`, which is the caller's."""

    def __init__(self, root: str, bounds: Bounds) -> None:
        self._root = root
        self._bounds = bounds
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Size of each in bytes, the one used longest ago first."""
        self._pins: Counter[str] = Counter()
        self._removals: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Find what earlier servers have kept."""
        await asyncio.to_thread(folders.clean, self._root)
        self._kept = await asyncio.to_thread(_kept_in, self._root)
        self.trim(self._bounds)

    async def close(self) -> None:
        """Wait until what has to be removed is."""
        if self._removals:
            await asyncio.wait(tuple(self._removals))

    def names(self) -> tuple[str, ...]:
        """What is kept, that which was used longest ago first."""
        return tuple(self._kept)

    def path(self, *names: str) -> str:
        """A path below the root."""
        return os.path.join(self._root, *names)

    @contextmanager
    def pinned(self, name: str) -> Iterator[None]:
        """Leave it where it is, if it is there."""
        self._pins[name] += 1
        try:
            yield
        finally:
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]

    def use(self, name: str) -> bool:
        """Whether it is there; it counts as used now."""
        if name not in self._kept:
            return False
        try:
            os.utime(self.path(name))
        except FileNotFoundError:  # a cache may be deleted at any time
            del self._kept[name]
            return False
        self._kept.move_to_end(name)
        return True

    def keep(self, draft: str, name: str, size: int) -> None:
        """Keep what was made under the name `draft` (see `folders.unfinished`); it has `size` bytes.
        One of that name is replaced."""
        with open(self.path(draft, _SIZE), "w", encoding="ascii") as file:
            file.write(str(size))
        if os.path.lexists(self.path(name)):
            self.remove(name)
        os.rename(self.path(draft), self.path(name))
        self._kept[name] = size
        self.trim(self._bounds)

    def trim(self, bounds: Bounds, prefix: str = "") -> None:
        """Remove what was used longest ago, until the rest of those whose names begin with `prefix`
        is within the bounds."""
        names = [name for name in self._kept if name.startswith(prefix)]
        size, count = sum(self._kept[name] for name in names), len(names)
        for name in names:
            if size <= bounds.size_bytes and count <= bounds.count:
                return
            if name not in self._pins:
                size, count = size - self._kept[name], count - 1
                self.remove(name)

    def forget(self, prefix: str) -> None:
        """Remove all whose names begin with `prefix`."""
        for name in self.names():
            if name.startswith(prefix):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove one, finished or not, in the background; nobody finds it from now on."""
        self._kept.pop(name, None)
        gone = folders.unfinished(name)
        with suppress(FileNotFoundError):
            os.rename(self.path(name), self.path(gone))
        task = asyncio.create_task(settled(asyncio.to_thread(folders.remove, self._root, gone)))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)


def _kept_in(root: str) -> OrderedDict[str, int]:
    """Sizes of the directories, the one used longest ago first.  What has none is removed."""
    found = []
    for entry in os.scandir(root):
        if not entry.is_dir(follow_symlinks=False):
            continue
        try:
            with open(os.path.join(entry.path, _SIZE), encoding="ascii") as file:
                found.append((entry.stat().st_mtime_ns, entry.name, int(file.read())))
        except (OSError, ValueError):
            folders.remove(root, entry.name)
    return OrderedDict((name, size) for _, name, size in sorted(found))
