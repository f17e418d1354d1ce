"""Removing what nothing refers to any more: layers, blobs, earlier revisions of manifests."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from era.sessions.builds import Builds
from era.sessions.layers import ARCHIVE, Layers
from era.sessions.packages import PREFIX, PackageLayers
from era.sessions.parts import Parts

_BATCH: Final = 500
_EVERYTHING: Final = 1 << 62
"""Beyond every revision."""
_IDLE_MS: Final = 3_600_000
"""History is kept this long for a tree that is behind; after that it is made anew when needed."""

_log = structlog.get_logger("era.sweep")


class Sweeper:
    """Sweeps every `every_seconds`; a blob may lie unused for `grace_seconds`, since the commit that
    refers to it may still be under way."""

    def __init__(
        self,
        parts: Parts,
        layers: Layers,
        packages: PackageLayers,
        builds: Builds,
        *,
        every_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._parts = parts
        self._layers = layers
        self._packages = packages
        self._builds = builds
        self._every_seconds = every_seconds
        self._grace_seconds = grace_seconds
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[int, tuple[int, int]] = {}
        """Revision of a session's tree, and since when it has been that."""

    def start(self) -> None:
        """Begin to sweep in the background."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the next sweep tries again
                _log.error("sweep failed", exc_info=error)

    async def sweep(self) -> None:
        """Remove everything that can be removed now."""
        seen, self._seen = self._seen, {}
        await self._parts.records.prune_history(lambda uid: self._forgettable(uid, seen))
        await self.drop_gone()
        await self._sweep_layers()
        await self._sweep_blobs()

    def _forgettable(self, uid: int, seen: dict[int, tuple[int, int]]) -> int:
        """Up to which revision nobody needs the history of a session's files: a tree that is behind
        is brought up by it."""
        revision, now_ms = self._parts.trees.revision(uid), self._parts.clock()
        if revision is None:
            return _EVERYTHING
        then, since_ms = seen.get(uid, (revision, now_ms))
        if then != revision:
            since_ms = now_ms
        self._seen[uid] = (revision, since_ms)
        return _EVERYTHING if now_ms - since_ms >= _IDLE_MS else revision

    async def drop_gone(self) -> None:
        """Remove the trees and programs of sessions that are gone: deleted by another server, or by
        this one when it was killed at it."""
        trees = self._parts.trees
        uids = {*await trees.uids(), *self._builds.uids()}
        for uid in uids - await self._parts.records.existing(tuple(uids)):
            await trees.drop(uid)
            self._builds.drop(uid)

    async def _sweep_layers(self) -> None:
        records = self._parts.records
        used, known = await records.layer_keys(used=True), await records.layer_keys(used=False)
        archives = {key for key in known if key.endswith(ARCHIVE)}
        for key in sorted(known - archives - used):
            layer = await records.layer(key)
            # Packages are kept for later setups as long as these would take them.
            if layer is None or (key.startswith(PREFIX) and self._packages.is_fresh(layer)):
                continue
            if not self._layers.is_pinned(key) and await records.delete_layer(key) is not None:
                await self._layers.forget(key)
        for key in sorted(archives):
            if await records.layer(key.removesuffix(ARCHIVE)) is None:
                await records.delete_layer(key)

    async def _sweep_blobs(self) -> None:
        batch: list[str] = []
        async for blob in self._parts.blobs.older_than(self._grace_seconds):
            batch.append(blob)
            if len(batch) == _BATCH:
                await self._delete_unreferenced(batch)
                batch = []
        await self._delete_unreferenced(batch)
        await self._parts.blobs.tidy(self._grace_seconds)

    async def _delete_unreferenced(self, blobs: list[str]) -> None:
        if blobs:
            for blob in await self._parts.records.unreferenced(blobs):
                await self._parts.blobs.delete(blob, age_seconds=self._grace_seconds)
