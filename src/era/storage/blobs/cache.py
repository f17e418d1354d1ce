"""The blobs that a node has at hand: a bounded directory of those in the object store.

Nothing in it is needed: what is missing is fetched again.  So nothing waits for the disk, and after
a reboot, which may have lost any part of it, all of it is forgotten.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from era.storage.blobs.local import LocalBlobs

_BOOT: Final = "boot"
_STAMP_SECONDS: Final = 0.02
"""A kernel stamps files with a time up to one of its ticks old."""
_KEPT_SHARE: Final = 0.9
"""Of the bound, after something had to go: the next one does not have to at once."""


class Cache(LocalBlobs):
    """At most `bound_bytes` below `root`, besides what is in use right now."""

    def __init__(self, root: str, bound_bytes: int) -> None:
        _forget_after_reboot(root)
        super().__init__(root, durable=False)
        self._bound: Final = bound_bytes
        self._used: int | None = None
        self._writers: Final[dict[object, float]] = {}

    @contextmanager
    def pinned(self, blobs: Iterable[str]) -> Iterator[None]:
        """Keep `blobs` from being removed."""
        names = tuple(blobs)
        self._shelf.pin(names)
        try:
            yield
        finally:
            self._shelf.unpin(names)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep what is stored from now on, whose names are not known yet, from being removed."""
        writer = object()
        self._writers[writer] = time.time()
        try:
            yield
        finally:
            del self._writers[writer]

    async def trim(self, added_bytes: int) -> None:
        """`added_bytes` have come; remove what was used longest ago if that is too much."""
        if self._used is not None:
            self._used += added_bytes
            if self._used <= self._bound:
                return
        target = self._bound if self._used is None else int(self._bound * _KEPT_SHARE)
        self._used = await self._run(self._shelf.evict, target, self._unused_before())

    async def forget(self, blob: str) -> None:
        """Remove `blob`, of which there is no need any more, unless it is in use again."""
        before = self._unused_before() if self._writers else math.inf
        await self._run(self._shelf.remove_unused, blob, before)

    def _unused_before(self) -> float:
        """What was stored since then may be some writer's."""
        return min([time.time(), *self._writers.values()]) - _STAMP_SECONDS


def _forget_after_reboot(root: str) -> None:
    marker = os.path.join(root, _BOOT)
    boot = _boot_id()
    try:
        with open(marker, "rb") as file:
            known = file.read()
    except FileNotFoundError:
        known = b""
    if not boot or known != boot:
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root, mode=0o700, exist_ok=True)
        with open(marker, "wb") as file:
            file.write(boot)


def _boot_id() -> bytes:
    """Names this boot of the machine; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""
