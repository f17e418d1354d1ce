"""`python -m bench [--quick] [--publish] [engine] [http] [steps]`: measure, print, perhaps publish."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from bench import bare, engine, http, report
from bench.boxes import Engine
from bench.boxes import engine as started
from bench.ends import ends
from bench.machine import Meter, describe, meter
from bench.measure import Plan, Row, Subject, as_json, crowded, spaced
from bench.programs import job
from bench.steps import steps

FULL: Final = Plan(
    rounds=3,
    crowded_rounds=2,
    count=25,
    spaced_seconds=2.0,
    crowded_seconds=1.2,
    clients=(1, 2, 4, 8),
    again=1,
)
QUICK: Final = Plan(
    rounds=1,
    crowded_rounds=1,
    count=10,
    spaced_seconds=0.7,
    crowded_seconds=0.7,
    clients=(1, 8),
    again=0,
)
STEPS: Final = 40
PARTS: Final = ("engine", "http", "steps")


def with_usage(rows: Sequence[Row], subjects: Sequence[Any]) -> list[Row]:
    """The rows with what the runs themselves used, as a mean of all."""
    usage = {one.name: one.usage_ms for one in subjects if getattr(one, "usage_ms", None)}
    return [
        replace(row, extra={"usage": sum(usage[row.name]) / len(usage[row.name])})
        if row.name in usage
        else row
        for row in rows
    ]


async def measure_engine(clock: Meter, plan: Plan, folder: str) -> dict[str, Any]:
    """The driver alone, with boxes ready and without, beside bare starts."""
    rows: list[Row] = []
    async with started(f"{folder}/cold", ready_boxes=0) as cold:
        subjects: list[Subject] = [*engine.latency_subjects(cold, clock, engine.COLD)]
        rows += with_usage(await spaced("engine", subjects, clock, plan), subjects)
    async with started(f"{folder}/warm") as warm:
        await warm.go_cache.warm()
        subjects = [
            *engine.latency_subjects(warm, clock, engine.WARM),
            *_baselines(warm, clock, folder),
        ]
        await asyncio.to_thread(clock.settle)
        idle = [as_json(one) for one in engine.idle_boxes()]
        rows += with_usage(await spaced("engine", subjects, clock, plan), subjects)
        bares = bare.bare_starts(warm.runtimes, clock)
        crowd: list[Subject] = [*engine.crowd_subjects(warm, clock)]
        crowd += [bares[name] for name in ("python", "node") if name in bares]
        rows += await crowded("engine", crowd, clock, plan)
    return {"rows": [as_json(row) for row in rows], "idle": idle}


def _baselines(warm: Engine, clock: Meter, folder: str) -> list[Subject]:
    found: list[Subject] = [*bare.bare_starts(warm.runtimes, clock).values()]
    tsx = bare.tsx_start(warm.runtimes, clock, folder)
    if tsx is not None:
        found.append(tsx)
    return [*found, *bare.jail_starts(warm.runtimes, clock, folder)]


async def measure_steps(clock: Meter, count: int, folder: str) -> dict[str, Any]:
    """Where the time of one run goes."""
    async with started(f"{folder}/steps") as warm:
        names = [name for name in ("python", "node") if name in engine.languages(warm)]
        found = {}
        for name in names:
            made = job(name, warm.runtimes.tools, warm.limits)
            found[name] = [as_json(step) for step in await steps(warm, made, clock, count)]
        forced = [as_json(end) for end in await ends(warm, clock, max(3, count // 4))]
    return {"steps": found, "ends": forced}


async def measure_http(clock: Meter, plan: Plan, folder: str) -> dict[str, Any]:
    """The whole service, beside bare starts in the same minutes."""
    async with started(f"{folder}/look", ready_boxes=0) as looked:
        runtimes = looked.runtimes
    with http.served(f"{folder}/served", clock) as (server, load):
        requests = http.subjects(server, load)
        bares = bare.bare_starts(runtimes, clock)
        subjects: list[Subject] = [*requests, *bares.values()]
        pandas, given = http.pandas(server, load), http.given_pandas(server, load)
        fresh = bare.pandas_start(clock, sys.executable)
        tsx = bare.tsx_start(runtimes, clock, f"{folder}/look")
        subjects += [one for one in (pandas, given, fresh, tsx) if one is not None]
        rows = with_usage(await spaced("http", subjects, clock, plan), subjects)
        crowd: list[Subject] = [one for one in requests if one.name in ("python", "node")]
        crowd += [bares[name] for name in ("python", "node") if name in bares]
        rows += await crowded("http", crowd, clock, plan)
        client_ms = load.own_cpu_ns / max(1, load.runs) / 1e6
    print(
        f"the client's own CPU: {client_ms:.2f} ms a request (not in any figure)", file=sys.stderr
    )
    return {"rows": [as_json(row) for row in rows], "client_cpu_ms": client_ms}


async def measure(parts: Sequence[str], plan: Plan, *, quick: bool) -> dict[str, Any]:
    """All parts asked for."""
    results: dict[str, Any] = {
        "machine": describe(),
        "measured": time.strftime("%Y-%m-%d") + (", quick" if quick else ""),
        "rows": [],
        "idle": [],
        "steps": {},
        "ends": [],
    }
    with meter() as clock, tempfile.TemporaryDirectory(prefix="era-bench-") as folder:
        if "steps" in parts:
            results |= await measure_steps(clock, STEPS // 4 if quick else STEPS, folder)
        if "engine" in parts:
            found = await measure_engine(clock, plan, folder)
            results["rows"] += found.pop("rows")
            results |= found
        if "http" in parts:
            found = await measure_http(clock, plan, folder)
            results["rows"] += found.pop("rows")
            results |= found
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help="engine, http, steps; all if none")
    parser.add_argument("--quick", action="store_true", help="about a minute; only a first look")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.* anew")
    parser.add_argument("--json", metavar="FILE", help="also keep the results there")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    begin = time.monotonic()
    plan = QUICK if asked.quick else FULL
    results = asyncio.run(measure(asked.parts or PARTS, plan, quick=asked.quick))
    print(report.as_text(results))
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(results, file, indent=1)
    if asked.publish:
        if asked.parts:
            parser.error("--publish wants all parts")
        report.publish(results)
    print(
        f"bench: {time.monotonic() - begin:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr
    )


if __name__ == "__main__":
    main()
