"""Batches of runs, taken in turns so that every subject meets the same machine.

A subject runs a number of times with idle gaps, or with several clients for some seconds.  One round
gives each subject one batch, A B C A B C, so what the machine does meanwhile hits all of them.
Batches with too much foreign work are done again while the time allows; what is still noisy then is
kept and marked, never passed off as clean.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bench.machine import FOREIGN_LIMIT, Meter, Spent

QUIET_WAIT_SECONDS: Final = 2.0
_WARM_UP_RUNS: Final = 2


class Subject(Protocol):
    """Something that is run again and again."""

    @property
    def name(self) -> str:
        """How tables call it."""

    async def spaced(self, count: int, seconds: float) -> list[int]:
        """Latencies (ns) of up to `count` runs one after the other, idle in between; no run is
        begun after `seconds`."""

    async def crowded(self, clients: int, seconds: float) -> list[int]:
        """Latencies (ns) of runs by `clients` at once for `seconds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int
    crowded_rounds: int
    count: int
    """Runs of a batch with idle gaps."""
    spaced_seconds: float
    crowded_seconds: float
    clients: tuple[int, ...]
    again: int
    """Rounds more for subjects whose batches were noisy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch: latencies, and what was spent from its first run to the idle moment after."""

    latencies: tuple[int, ...]
    running_ns: int
    spent: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One subject at one number of clients, over its batches; times in milliseconds."""

    part: str
    name: str
    clients: int
    runs: int
    p50: float
    p95: float
    p99: float
    least: float
    per_second: float
    cpu: float | None
    """Own CPU of one run, what it takes to make the next box ready included."""
    kernel: float
    """CPU of kernel threads meanwhile, for one run."""
    foreign: float
    batches: int
    noisy: bool
    extra: dict[str, float] = field(default_factory=dict)


def percentile(values: Sequence[int], percent: float) -> float:
    """The value that `percent` of `values` do not exceed, in milliseconds of nanoseconds."""
    ordered = sorted(values)
    index = max(0, math.ceil(percent / 100 * len(ordered)) - 1)
    return ordered[index] / 1e6


async def batch(meter: Meter, work: Callable[[], Awaitable[list[int]]]) -> Batch:
    """Carry out one batch between two readings."""
    await asyncio.to_thread(meter.settle)
    await asyncio.to_thread(meter.wait_until_quiet, QUIET_WAIT_SECONDS)
    before = meter.read()
    latencies = await work()
    ended = time.perf_counter_ns()
    await asyncio.to_thread(meter.settle)
    spent = meter.between(before, meter.read())
    return Batch(latencies=tuple(latencies), running_ns=ended - before.at, spent=spent)


async def spaced(part: str, subjects: Sequence[Subject], meter: Meter, plan: Plan) -> list[Row]:
    """Latency of each subject at one client."""
    for subject in subjects:
        await subject.spaced(_WARM_UP_RUNS, plan.spaced_seconds)

    def work(subject: Subject) -> Callable[[], Awaitable[list[int]]]:
        return lambda: subject.spaced(plan.count, plan.spaced_seconds)

    return await _in_turns(part, subjects, 0, work, meter, (plan.rounds, plan.again))


async def crowded(part: str, subjects: Sequence[Subject], meter: Meter, plan: Plan) -> list[Row]:
    """Throughput of each subject at each number of clients."""
    rows = []
    for clients in plan.clients:

        def work(subject: Subject, clients: int = clients) -> Callable[[], Awaitable[list[int]]]:
            return lambda: subject.crowded(clients, plan.crowded_seconds)

        rounds = (plan.crowded_rounds, plan.again)
        rows += await _in_turns(part, subjects, clients, work, meter, rounds)
    return rows


async def _in_turns(
    part: str,
    subjects: Sequence[Subject],
    clients: int,
    work: Callable[[Subject], Callable[[], Awaitable[list[int]]]],
    meter: Meter,
    rounds: tuple[int, int],
) -> list[Row]:
    wanted, again = rounds
    taken: dict[str, list[Batch]] = {subject.name: [] for subject in subjects}
    for _ in range(wanted):
        for subject in subjects:
            taken[subject.name].append(await batch(meter, work(subject)))
    for _ in range(again):
        for subject in subjects:
            if len(_quiet(taken[subject.name])) < wanted:
                taken[subject.name].append(await batch(meter, work(subject)))
    rows = [row(part, name, clients, batches, wanted) for name, batches in taken.items()]
    for made in rows:
        print(line(made), file=sys.stderr, flush=True)
    return rows


def _quiet(batches: Sequence[Batch]) -> list[Batch]:
    return [one for one in batches if one.spent.foreign < FOREIGN_LIMIT]


def row(part: str, name: str, clients: int, batches: Sequence[Batch], wanted: int) -> Row:
    """One row of the quietest `wanted` batches.  `clients` 0 stands for one with idle gaps."""
    used = sorted(batches, key=lambda one: one.spent.foreign)[:wanted]
    latencies = [value for one in used for value in one.latencies]
    if not latencies:
        raise RuntimeError(f"{name} was not run once in the time it had")
    cpus = [one.spent.own_ns / len(one.latencies) for one in used if one.spent.own_ns is not None]
    return Row(
        part=part,
        name=name,
        clients=clients,
        runs=len(latencies),
        p50=percentile(latencies, 50),
        p95=percentile(latencies, 95),
        p99=percentile(latencies, 99),
        least=min(latencies) / 1e6,
        per_second=statistics.median(len(one.latencies) / (one.running_ns / 1e9) for one in used),
        cpu=statistics.median(cpus) / 1e6 if cpus else None,
        kernel=statistics.median(one.spent.kernel_ns / len(one.latencies) for one in used) / 1e6,
        foreign=max(one.spent.foreign for one in used),
        batches=len(used),
        noisy=any(one.spent.foreign >= FOREIGN_LIMIT for one in used),
    )


def line(made: Row) -> str:
    """A row as progress shows it."""
    cpu = "    n/a" if made.cpu is None else f"{made.cpu:7.2f}"
    how = f"{made.clients} clients" if made.clients else "idle gaps"
    noisy = f"  NOISY: {made.foreign:.2f} CPUs were busy with other work" if made.noisy else ""
    return (
        f"{made.part:7}{made.name:28}{how:11}p50 {made.p50:8.2f}  p95 {made.p95:8.2f}  "
        f"{made.per_second:7.1f}/s  cpu {cpu} +{made.kernel:.2f}  n={made.runs}{noisy}"
    )


def skipped(what: str, why: str) -> None:
    """Say loudly that something is not measured."""
    print(f"bench: NOT MEASURED: {what}: {why}", file=sys.stderr, flush=True)


def as_json(value: Any) -> dict[str, Any]:
    """A frozen value as plain data."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
