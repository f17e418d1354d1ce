"""What has to be there before a program can start: the modules it imports, the program itself."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from era.sandbox.base import BoxSpec, Exit, Program
from era.sessions import builds
from era.sessions.active import Active
from era.sessions.builds import Builds, Perform
from era.sessions.modules import Modules, UnresolvedError
from era.sessions.snapshots import Snapshot

CANCELLED: Final = Exit(exit_code=143, stdout=b"", stderr=b"", cancelled=True)
"""The outcome of a program that was cancelled before it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A program that can start in a box of `spec`.  `before` is what was run for it first; `ended`
    is the outcome of the run when the program cannot be started."""

    spec: BoxSpec
    program: Program
    before: Exit | None = None
    ended: Exit | None = None


class Preparing:
    """Makes runs ready; `output_bytes` is kept of each stream."""

    def __init__(self, modules: Modules | None, programs: Builds, output_bytes: int) -> None:
        self._modules = modules
        self._programs = programs
        self._output_bytes = output_bytes

    async def ready(
        self, run: Active, snapshot: Snapshot, perform: Perform, held: ExitStack
    ) -> Ready:
        """What the run starts with; it stays until `held` is closed."""
        ready = Ready(spec=snapshot.spec, program=snapshot.program)
        if run.cancel_asked:
            return replace(ready, ended=CANCELLED)
        if snapshot.build is not None:
            return await self._built(run, snapshot.build, ready, perform, held)
        if snapshot.wanted is not None and self._modules is not None:
            return await self._fetched(run, snapshot, ready, held)
        return ready

    async def _built(
        self, run: Active, wanted: builds.Wanted, ready: Ready, perform: Perform, held: ExitStack
    ) -> Ready:
        made = await self._programs.ready(wanted, ready.spec, perform, held)
        if made.path is None:
            self._say(run, made.words)
            return replace(ready, ended=made.ended)
        spec, program = builds.started(made, ready.spec, ready.program)
        return Ready(spec=spec, program=program, before=made.ended)

    async def _fetched(
        self, run: Active, snapshot: Snapshot, ready: Ready, held: ExitStack
    ) -> Ready:
        assert self._modules is not None
        assert snapshot.wanted is not None
        fetching = asyncio.create_task(
            self._modules.ready(snapshot.wanted, ready.spec, snapshot.placed, held)
        )
        run.begin(fetching)
        try:
            return replace(ready, spec=await fetching)
        except UnresolvedError as error:
            truncated = self._say(run, error.outcome.stderr) or error.outcome.stderr_truncated
            return replace(ready, ended=replace(error.outcome, stderr_truncated=truncated))
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return replace(ready, ended=CANCELLED)  # only the fetching was

    def _say(self, run: Active, words: bytes) -> bool:
        """Add to the run's stderr; whether that had to be cut."""
        run.output.feed("stderr", words[: self._output_bytes])
        return len(words) > self._output_bytes


def _is_cancelled() -> bool:
    """Whether the task that asks is being cancelled itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
