"""Runs that are under way: what they wrote so far, and the ways to end them from outside."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from era.errors import EraError
from era.models import RunResult
from era.sandbox.base import Box
from era.storage.leases import Activity


class Stoppable(Protocol):
    """What a run does right now."""

    def cancel(self) -> object:
        """End it."""


TextSink = Callable[[str, str], None]
"""Called with `stdout` or `stderr` and a piece of text, as it comes; must not block.

The pieces of one stream put together are exactly what the result holds.
"""


class Output:
    """The output of a run as text: UTF-8, with U+FFFD for what is not, characters never split."""

    def __init__(self, sink: TextSink | None) -> None:
        self._sink = sink
        self._decoders = {name: _decoder() for name in ("stdout", "stderr")}
        self._pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def feed(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes of a stream."""
        self._take(stream, self._decoders[stream].decode(chunk))

    def finish(self, stream: str, *, truncated: bool) -> str:
        """The whole text of a stream; a character that the cap cut in two is left out."""
        if not truncated:
            self._take(stream, self._decoders[stream].decode(b"", final=True))
        return self.text(stream)

    def text(self, stream: str) -> str:
        """The text of a stream so far."""
        return "".join(self._pieces[stream])

    def _take(self, stream: str, text: str) -> None:
        if text:
            self._pieces[stream].append(text)
            if self._sink is not None:
                self._sink(stream, text)


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


class Phase(Enum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """The program has ended; what it left is being kept, which nothing interrupts."""


class Active:
    """One run under way.  `uid` is that of its session, None for a one-shot execution; `epoch` that of
    the lease under which the session's state was read.  `box` is where its program runs; `answers`
    tells whether that answers an HTTP request."""

    def __init__(self, run_id: str, uid: int | None, output: Output) -> None:
        self.run_id = run_id
        self.uid = uid
        self.output = output
        self.phase = Phase.QUEUED
        self.cancel_asked = False
        self.epoch: int | None = None
        self.reason: Callable[[Active], EraError] | None = None
        self.task: asyncio.Task[RunResult] | None = None
        self.answers = False
        self.box: Box | None = None
        self._now: Stoppable | None = None

    def begin(self, now: Stoppable) -> None:
        """Something is about to be done that may take its time."""
        self._now = now

    def enter(self, box: Box) -> None:
        """The program is about to run in a box."""
        self.box = box
        self.begin(box)

    def end(self) -> None:
        """The program has ended; from here on what it left is kept."""
        self._now = self.box = None
        self.phase = Phase.ENDED

    def cancel(self) -> None:
        """End the program as a deadline would; what it left is kept.  It need not have begun."""
        self.cancel_asked = True
        if self._now is not None:
            self._now.cancel()

    def kill(self, reason: Callable[[Active], EraError]) -> None:
        """End the run at once, keeping nothing; its caller gets `reason` of it.  A run that has
        ended is kept all the same."""
        if self.phase is not Phase.ENDED and self.reason is None:
            self.reason = reason
            self.drop()

    def drop(self) -> None:
        """Stop a run that nobody waits for."""
        if self.task is not None:
            self.task.cancel()

    async def over(self) -> None:
        """Wait until nothing of the run is left, however it ended."""
        if self.task is not None:
            await asyncio.wait((self.task,))


class Registry:
    """Every run under way."""

    def __init__(self) -> None:
        self._runs: dict[int | None, set[Active]] = {}

    def add(self, run: Active) -> None:
        """A run has come."""
        self._runs.setdefault(run.uid, set()).add(run)

    def discard(self, run: Active) -> None:
        """A run is over."""
        runs = self._runs.get(run.uid, set())
        runs.discard(run)
        if not runs:
            self._runs.pop(run.uid, None)

    def all(self) -> tuple[Active, ...]:
        """Every run under way, those of executions included."""
        return tuple(run for runs in self._runs.values() for run in runs)

    def of(self, uid: int) -> tuple[Active, ...]:
        """The runs of a session."""
        return tuple(self._runs.get(uid, ()))

    def current(self, uid: int) -> Active | None:
        """The run of a session that is in progress."""
        return next((run for run in self.of(uid) if run.phase is not Phase.QUEUED), None)

    def activity(self, uid: int) -> Activity:
        """What goes on in a session."""
        return Activity(running=self.current(uid) is not None, queued=self.queued(uid))

    def queued(self, uid: int) -> int:
        """How many runs of a session wait."""
        return sum(run.phase is Phase.QUEUED for run in self.of(uid))
