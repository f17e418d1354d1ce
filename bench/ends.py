"""How soon a run that had to be ended by force is over, after its deadline and its grace."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, replace
from typing import Final

from bench.boxes import Engine
from bench.machine import Meter
from bench.programs import Job, job
from bench.steps import settled
from era.workspace import stage

_TIMEOUT_SECONDS: Final = 0.3
_GRACE_SECONDS: Final = 0.2
_DEAF: Final = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
PROGRAMS: Final = {
    "a loop that ignores SIGTERM": f"{_DEAF}while True: pass\n",
    "50 processes that ignore it": (
        f"{_DEAF}import os, time\nfor _ in range(49):\n    if not os.fork(): break\ntime.sleep(600)\n"
    ),
    "50 processes, each in a loop": (
        f"{_DEAF}import os\nfor _ in range(49):\n    if not os.fork(): break\nwhile True: pass\n"
    ),
    "one with 400 MB": f"{_DEAF}kept = bytearray(400 << 20)\nwhile True: pass\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Milliseconds after deadline and grace until the answer, and until nothing of the box is left."""

    name: str
    answered_ms: float
    gone_ms: float
    worst_ms: float


async def _once(engine: Engine, made: Job) -> tuple[float, float]:
    program = replace(made.program, timeout_seconds=_TIMEOUT_SECONDS, grace_seconds=_GRACE_SECONDS)
    async with engine.driver.box(made.spec) as box:
        stage.place(box.workspace_fd, made.files, owner=box.owner)
        ended = await box.run(program)
        at = time.monotonic()
        begun = at - ended.duration_ns / 1e9
    assert ended.timed_out, ended
    await settled(engine)
    due = begun + _TIMEOUT_SECONDS + _GRACE_SECONDS
    return (at - due) * 1e3, (time.monotonic() - due) * 1e3


async def ends(engine: Engine, meter: Meter, count: int) -> list[End]:
    """Each program `count` times, with idle gaps."""
    found = []
    for name, code in PROGRAMS.items():
        made = job("python", engine.runtimes.tools, engine.limits, code=code)
        rows = []
        for _ in range(count):
            await asyncio.to_thread(meter.settle)
            rows.append(await _once(engine, made))
        answered, gone = zip(*rows, strict=True)
        found.append(
            End(
                name=name,
                answered_ms=statistics.median(answered),
                gone_ms=statistics.median(gone),
                worst_ms=max(answered),
            )
        )
    return found
