"""The work of a setup inside its box: one step after the other, then the layer is packed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from era import layout
from era.errors import EraError, TooLargeError
from era.languages.packages import Step
from era.models import SetupProgress
from era.sandbox.base import Box, BoxSpec, Driver, Program
from era.sessions.layers import Layers
from era.sessions.specs import TIMED_OUT, TOO_LARGE, Failure
from era.storage.base import Blob, Records

OUTPUT_BYTES: Final = 64 << 10
"""Kept of what the steps write, of each stream."""
_LINE_CHARACTERS: Final = 200
_NO_ROOM_BYTES: Final = 1 << 20
"""Less free scratch than this after a failed step: the step failed for want of room."""
_PROGRESS_SECONDS: Final = 1.0
"""Between two writes of a step's progress."""


class StepFailedError(Exception):
    """A step failed, and the setup with it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure: Final = failure


class Tail:
    """The last of what the steps of a setup wrote."""

    def __init__(self) -> None:
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.last_line = ""

    def feed(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes of a stream."""
        kept = self._kept[stream]
        kept += chunk
        if len(kept) > 2 * OUTPUT_BYTES:
            del kept[:-OUTPUT_BYTES]
        text = chunk[-4 * _LINE_CHARACTERS :].decode("utf-8", "replace")
        line = text.replace("\r", "\n").strip().rpartition("\n")[2]
        self.last_line = line[:_LINE_CHARACTERS] or self.last_line

    def texts(self) -> tuple[str, str]:
        """Both streams as text."""
        out, err = (
            bytes(self._kept[name][-OUTPUT_BYTES:]).decode("utf-8", "replace")
            for name in ("stdout", "stderr")
        )
        return out, err

    def copy(self) -> Tail:
        """The same so far, going its own way from now on."""
        other = Tail()
        for name, kept in self._kept.items():
            other._kept[name] += kept
        return other


@dataclass(slots=True, kw_only=True)
class Reporter:
    """What some steps have done so far, written as the progress of every setup that waits for them.

    `audience` are the setups by uid, with the number of steps that each has in all; `before` is how
    many of these came before the first of ours.
    """

    records: Records
    clock: Callable[[], int]
    before: int = 0
    audience: dict[int, int] = field(default_factory=dict)
    tail: Tail = field(default_factory=Tail)
    finished: list[Step] = field(default_factory=list)
    _now: SetupProgress | None = None

    async def begin(self, step: Step) -> None:
        """The next step begins."""
        self.tail.last_line = ""
        self._now = SetupProgress(
            step=step.kind,
            step_index=self.before + len(self.finished) + 1,
            steps_total=0,
            started_at_ms=self.clock(),
        )
        await self.write()

    async def write(self) -> None:
        """Write how far the step is."""
        if self._now is None:
            return
        line = self.tail.last_line
        for uid, total in tuple(self.audience.items()):
            with suppress(EraError):  # progress is for information only
                now = replace(self._now, steps_total=total, last_line=line)
                await self.records.setup_progress(uid, now)

    async def watch(self) -> None:
        """Write whenever the last line has changed; runs beside the steps until cancelled."""
        written = ""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            if self.tail.last_line != written:
                written = self.tail.last_line
                await self.write()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done in one box.  `environment` makes the variables of a step; `deadline` is on the
    monotonic clock, None without one."""

    spec: BoxSpec
    steps: Sequence[Step]
    environment: Callable[[Step], Mapping[str, str]]
    deadline: float | None
    layer_bytes: int


async def install(work: Work, driver: Driver, layers: Layers, reporter: Reporter) -> Blob:
    """Run the steps and pack what they left.

    Raises:
        StepFailedError: the setup has failed.
        UnavailableError, InternalError: the service has.
    """
    watch = asyncio.create_task(reporter.watch())
    try:
        async with driver.box(work.spec) as box:
            for step in work.steps:
                await reporter.begin(step)
                await _place(box, step)
                await _run(box, step, work, reporter.tail)
                reporter.finished.append(step)
            try:
                return await layers.pack(box, work.layer_bytes)
            except TooLargeError:
                raise StepFailedError(Failure(error=TOO_LARGE, step=work.steps[-1].kind)) from None
    finally:
        watch.cancel()
        await asyncio.wait((watch,))


async def _place(box: Box, step: Step) -> None:
    """Files of a step lie in the box's own scratch, so a program of the box writes them."""
    for path, content in step.files.items():
        full = os.path.join(layout.LAYER, path)
        for argv in (("/usr/bin/mkdir", "-p", os.path.dirname(full)), ("/usr/bin/tee", full)):
            await box.run(Program(argv=argv, cwd="/", stdin=content, output_bytes=0))


async def _run(box: Box, step: Step, work: Work, tail: Tail) -> None:
    left = 0.0
    if work.deadline is not None:
        left = max(work.deadline - time.monotonic(), 0.001)
    program = Program(
        argv=step.argv,
        env=work.environment(step),
        cwd=step.cwd,
        timeout_seconds=left,
        output_bytes=0,
        tail=True,
    )
    ended = await box.run(program, tail.feed)
    if ended.exit_code == 0:
        return
    error = step.error
    if ended.timed_out:
        error = TIMED_OUT
    elif _is_full(box):
        error = TOO_LARGE
    raise StepFailedError(
        Failure(error=error, step=step.kind, command=step.command, exit_code=ended.exit_code)
    )


def _is_full(box: Box) -> bool:
    """Whether the scratch of the box, which the workspace is on, has no room left."""
    room = os.fstatvfs(box.workspace_fd)
    return room.f_bavail * room.f_frsize < _NO_ROOM_BYTES
