"""Where the time of one run in a box made ahead goes.

The driver says most of it by itself: a box's processes stamp `started` and `ended` with the clock
that this process reads too.  The rest is seen by standing between the driver's own functions from
here; nothing of the product is changed or knows of it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.boxes import Engine
from bench.machine import Meter
from bench.programs import Job
from era.sandbox.namespaces import run as runs
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.output import Pump
from era.workspace import stage

Stamps = dict[str, int]
_WARM_UP: Final = 3

ORDER: Final = (
    ("taken", "a waiting box is taken"),
    ("placed", "files are placed"),
    ("told", "the gate is opened"),
    ("started", "the program's process knows what it is"),
    ("output", "first output arrives"),
    ("eof", "all output has arrived"),
    ("ended", "the program is reaped"),
    ("result", "the result is made"),
    ("exited", "behind the answer: process 1 of the box is reaped"),
    ("closed", "behind the answer: cgroups and scratch are ready for another box"),
)
"""Moments of a run, in order: the key of the stamp, and what has happened then."""


class Watch:
    """Stamps the moments of the run in progress; one run at a time."""

    def __init__(self) -> None:
        self.stamps: Stamps = {}
        self._run: object | None = None
        self._kept: list[tuple[Any, str, Any]] = []

    def mark(self, name: str, at_ns: int | None = None) -> None:
        """The first time something happens counts."""
        self.stamps.setdefault(name, time.monotonic_ns() if at_ns is None else at_ns)

    def __enter__(self) -> Watch:
        self._between(runs.Run, "go", self._before_go)
        self._between(runs.Run, "heard", self._before_heard)
        self._between(runs.Run, "ended", self._before_ended)
        self._between(runs.Run, "box_exited", self._before_exited)
        self._between(Pump, "_keep", lambda *_: self.mark("output"))
        self._between(Pump, "close", lambda *_: self.stamps.update(eof=time.monotonic_ns()))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in self._kept:
            setattr(owner, name, original)

    def _between(self, owner: Any, name: str, seen: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def instead(this: Any, *args: Any, **more: Any) -> Any:
            seen(this, *args)
            return original(this, *args, **more)

        self._kept.append((owner, name, original))
        setattr(owner, name, instead)

    def _before_go(self, run: object, *_: Any) -> None:
        self._run = run
        self.mark("told")

    def _before_heard(self, run: object, message: dict[str, Any], *_: Any) -> None:
        if run is self._run and message["event"] == "started":
            self.mark("started", message["at_ns"])

    def _before_ended(self, run: object, message: dict[str, Any]) -> None:
        if run is self._run:
            self.mark("ended", message["at_ns"])

    def _before_exited(self, run: object, *_: Any) -> None:
        if run is self._run:
            self.mark("exited")


async def settled(engine: Engine) -> None:
    """Wait until nothing of a box that was left is still being taken away."""
    driver = engine.driver
    assert isinstance(driver, NamespacesDriver)
    while driver.winding_up:
        await asyncio.wait(set(driver.winding_up))


async def one(engine: Engine, job: Job, watch: Watch) -> Stamps:
    """The stamps of one run, in nanoseconds since its beginning."""
    watch.stamps = {}
    begin = time.monotonic_ns()
    async with engine.driver.box(job.spec) as box:
        watch.mark("taken")
        stage.place(box.workspace_fd, job.files, owner=box.owner)
        watch.mark("placed")
        await box.run(job.program)
        watch.mark("result")
    await settled(engine)
    watch.mark("closed")
    return {name: at - begin for name, at in watch.stamps.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run: how long after the one before it, as a median in milliseconds."""

    name: str
    text: str
    took_ms: float
    at_ms: float


async def steps(engine: Engine, job: Job, meter: Meter, count: int) -> list[Step]:
    """The steps of `job`, from `count` runs with idle gaps."""
    rows: list[Stamps] = []
    with Watch() as watch:
        for _ in range(count + _WARM_UP):
            await asyncio.to_thread(meter.settle)
            rows.append(await one(engine, job, watch))
    return medians(rows[_WARM_UP:])


def medians(rows: Sequence[Stamps]) -> list[Step]:
    """Moments in the order in which they come; what comes before is what a step is counted from."""
    moments = []
    for name, text in ORDER:
        seen = [stamps[name] for stamps in rows if name in stamps]
        if seen:
            moments.append((statistics.median(seen) / 1e6, name, text))
    moments.sort()
    found = []
    before = 0.0
    for at, name, text in moments:
        found.append(Step(name=name, text=text, took_ms=at - before, at_ms=at))
        before = at
    return found
