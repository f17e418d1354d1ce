"""Layers of packages alone: found by their recipe, shared by all setups that ask for the same.

An identical recipe that is being installed is waited for, and a layer that is young enough is
taken as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from era.languages.packages import Step, knowing
from era.sandbox.base import Overlay
from era.sessions import inventory
from era.sessions.install import Installer, Reporter, Work
from era.sessions.layers import LayerLostError, Layers
from era.sessions.npmcode import NpmCode
from era.sessions.output import Tail
from era.sessions.parts import Parts
from era.sessions.pythonfacts import PythonFacts
from era.storage.base import LayerRecord
from era.workspace.failures import settled

PREFIX: Final = "packages-"
"""Keys of these layers begin so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """An installation that one or more setups wait for."""

    task: asyncio.Task[LayerRecord]
    reporter: Reporter


class PackageLayers:
    """Makes and finds the layers."""

    def __init__(self, parts: Parts, layers: Layers, max_age_seconds: float) -> None:
        self._parts = parts
        self._layers = layers
        self._max_age_ms = int(max_age_seconds * 1000)
        self._installer = Installer(driver=parts.driver, layers=layers)
        self._shared: dict[str, _Shared] = {}
        self._npm = NpmCode(parts.driver, parts.npm_dir, parts.tools) if parts.npm_dir else None
        self._python = PythonFacts(parts.driver, parts.tools) if parts.npm_dir else None

    async def close(self) -> None:
        """Stop what goes on in the background."""
        if self._python is not None:
            await self._python.close()
        if self._npm is not None:
            await self._npm.close()

    @property
    def busy(self) -> bool:
        """Whether something is done in the background."""
        return any(ahead.busy for ahead in (self._npm, self._python) if ahead is not None)

    def make_ready(self, kinds: Collection[str] = ("npm", "pip")) -> None:
        """Make in the background what steps can do without, but are quicker with."""
        if self._npm is not None and "npm" in kinds:
            self._npm.make_soon()
        if self._python is not None and "pip" in kinds:
            self._python.find_soon()

    def overlays(self, kinds: Collection[str]) -> tuple[Overlay, ...]:
        """What a box for steps of these kinds gets."""
        return self._npm.overlays() if self._npm is not None and "npm" in kinds else ()

    def quick(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Direct steps, with what is there to make them quicker."""
        facts = self._python.files if self._python is not None else {}
        return tuple(knowing(step, facts) for step in steps)

    async def find(self, recipe: str, pins: ExitStack) -> LayerRecord | None:
        """A layer of the recipe that is young enough, unpacked; `pins` keeps it from being swept."""
        for periods_ago in (0, 1):
            key = self._key(recipe, periods_ago)
            pins.enter_context(self._layers.pinned(key))
            layer = await self._parts.records.layer(key)
            if layer is not None and self.is_fresh(layer):
                with suppress(LayerLostError):  # it is then installed, and has the same key again
                    await self._layers.directory(key)
                    return layer
        return None

    def is_fresh(self, layer: LayerRecord) -> bool:
        """Whether the layer is young enough for a new setup."""
        return self._parts.clock() - layer.created_at_ms < self._max_age_ms

    def _key(self, recipe: str, periods_ago: int) -> str:
        """Layers never change, so a recipe has another key in each period of the longest age."""
        period = self._parts.clock() // max(self._max_age_ms, 1) - periods_ago
        return f"{PREFIX}{recipe}-{period:x}"

    def share(self, recipe: str, work: Work) -> Reporter:
        """Start to install the recipe by `work`, unless that is under way; its reporter."""
        shared = self._shared.get(recipe)
        if shared is None:
            reporter = Reporter(
                records=self._parts.records,
                clock=self._parts.clock,
                tail=Tail(work.secrets),
            )
            key = self._key(recipe, 0)
            task = asyncio.create_task(self.stored(key, work, reporter))
            shared = self._shared[recipe] = _Shared(task=task, reporter=reporter)
            task.add_done_callback(lambda task: self._over(recipe, task))
        return shared.reporter

    def _over(self, recipe: str, task: asyncio.Task[LayerRecord]) -> None:
        del self._shared[recipe]
        if not task.cancelled():
            task.exception()  # whoever still waited has it

    async def wait(self, recipe: str, uid: int, steps_total: int) -> LayerRecord:
        """Wait for an installation on behalf of a setup.  It is given up when nobody waits any more.

        Raises:
            StepFailedError: it failed.
        """
        shared = self._shared[recipe]
        audience = shared.reporter.audience
        audience[uid] = steps_total
        try:
            await shared.reporter.write()
            return await asyncio.shield(shared.task)
        finally:
            del audience[uid]
            if not audience and not shared.task.done():
                shared.task.cancel()
                await asyncio.wait((shared.task,))

    async def stored(self, key: str, work: Work, reporter: Reporter) -> LayerRecord:
        """Do the work, and make what it left the layer `key`.

        Raises:
            StepFailedError: the work failed.
        """
        kinds = tuple({step.kind: None for step in work.steps})
        async with self._installer.installed(key, work, reporter) as draft:
            self.make_ready(kinds)  # for the next
            found = await settled(asyncio.to_thread(inventory.installed, draft, kinds))
            return await self._layers.keep(draft, key, inventory.as_text(found))
