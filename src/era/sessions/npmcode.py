"""npm's own code in the form that Node compiles it to: made once, in a box with nothing of a stranger.

npm loads hundreds of modules before it does anything.  Node keeps what it has compiled where it is
told to; setups see it below space of their own, so none writes what another one runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from typing import Final

import structlog

from era import jsontext
from era.errors import EraError
from era.languages.packages import NPM_CODE, npm_sample
from era.languages.table import Tools
from era.sandbox.base import Bind, BoxSpec, Driver, Limits, Overlay, Program

_LIMITS: Final = Limits(memory_bytes=1 << 30, cpus=2)
_SECONDS: Final = 120.0

_log = structlog.get_logger("era.npm")


class NpmCode:
    """The compiled code of one version of npm, below `directory`, which is the caller's."""

    def __init__(self, driver: Driver, directory: str, tools: Tools) -> None:
        self._driver = driver
        self._directory = directory
        self._tools = tools
        self._place = os.path.join(directory, _key(tools))
        self._making: asyncio.Task[None] | None = None

    def overlays(self) -> tuple[Overlay, ...]:
        """What the box of an npm step gets."""
        there = os.path.isdir(self._place)
        return (Overlay(target=NPM_CODE, lowers=(self._place,) if there else ()),)

    def make_soon(self) -> None:
        """Make it in the background, unless that was done or tried before."""
        if self._making is None and "node" not in self._tools.missing:
            self._making = asyncio.create_task(self._quietly())

    @property
    def busy(self) -> bool:
        """Whether it is being made."""
        return self._making is not None and not self._making.done()

    async def close(self) -> None:
        """Stop."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait((self._making,))

    async def _quietly(self) -> None:
        try:
            if not os.path.isdir(self._place):
                await self._make()
        except (EraError, OSError) as error:
            _log.warning("npm's code was not compiled ahead", exc_info=error)

    async def _make(self) -> None:
        draft = f"{self._place}.tmp"
        await asyncio.to_thread(self._empty, draft)
        spec = BoxSpec(limits=_LIMITS, binds=(Bind(source=draft, target=NPM_CODE, writable=True),))
        launch = npm_sample(self._tools)
        program = Program(
            argv=launch.argv, env=launch.env, stdin=b"", cwd="/", timeout_seconds=_SECONDS
        )
        async with self._driver.box(spec) as box:
            if box.owner is not None:
                os.chown(draft, box.owner, box.owner)
            ended = await box.run(program)
        if ended.exit_code == 0:
            os.rename(draft, self._place)
        else:
            said = ended.stderr.decode(errors="replace")[-500:]
            _log.warning("npm's code was not compiled ahead", said=said)

    def _empty(self, draft: str) -> None:
        for name in os.listdir(self._directory):
            shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)
        os.makedirs(draft, mode=0o755)


def _key(tools: Tools) -> str:
    """Another Node, another way of making it: another directory."""
    recipe = [tools.versions.get("node", ""), tools.platform, npm_sample(tools).argv]
    return "npm-" + hashlib.sha256(jsontext.dumps(recipe).encode()).hexdigest()[:16]
