"""The driver alone, without HTTP: what it costs to open a box, run a program and have it gone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.boxes import Engine
from bench.machine import Meter
from bench.programs import Job, code_of, job

COLD: Final = "on demand"
WARM: Final = "ready"


@dataclass(slots=True, kw_only=True)
class Boxed:
    """A program run by the driver."""

    name: str
    engine: Engine
    meter: Meter
    language: str
    fresh: bool = False
    """Each run has code that was never seen before."""
    usage_ms: list[float] = field(default_factory=list)
    """What each run itself used, by its own cgroup."""
    _number: int = 0

    def _job(self) -> Job:
        self._number += 1
        code = code_of(self.language, time.monotonic_ns()) if self.fresh else ""
        return job(
            self.language,
            self.engine.runtimes.tools,
            self.engine.limits,
            go_cache=self.engine.go_cache.lower(),
            code=code,
        )

    async def _once(self) -> int:
        made = self._job()
        begin = time.perf_counter_ns()
        ended = await self.engine.run(made)
        taken = time.perf_counter_ns() - begin
        self.usage_ms.append(float(ended.usage.cpu_ms or 0))
        return taken

    async def spaced(self, count: int, seconds: float) -> list[int]:
        """See `Subject`."""
        found: list[int] = []
        deadline = time.monotonic() + seconds
        while not found or (len(found) < count and time.monotonic() < deadline):
            await asyncio.to_thread(self.meter.settle)
            found.append(await self._once())
        return found

    async def crowded(self, clients: int, seconds: float) -> list[int]:
        """See `Subject`."""
        deadline = time.monotonic() + seconds

        async def client() -> list[int]:
            found = []
            while time.monotonic() < deadline:
                found.append(await self._once())
            return found

        return [
            value
            for found in await asyncio.gather(*(client() for _ in range(clients)))
            for value in found
        ]


def languages(engine: Engine) -> list[str]:
    """What can be run here, by the service's names, and the shell."""
    missing = engine.runtimes.tools.missing
    return [
        "shell",
        *(name for name in ("python", "node", "typescript", "deno") if name not in missing),
    ]


def latency_subjects(engine: Engine, meter: Meter, kind: str) -> list[Boxed]:
    """One subject for each language; without a session go compiles each time."""
    subjects = [
        Boxed(name=f"{name}, {kind}", engine=engine, meter=meter, language=name)
        for name in languages(engine)
    ]
    if kind == WARM and "go" not in engine.runtimes.tools.missing:
        subjects.append(
            Boxed(name="go, new program", engine=engine, meter=meter, language="go", fresh=True)
        )
    return subjects


def crowd_subjects(engine: Engine, meter: Meter) -> list[Boxed]:
    """What throughput is measured of."""
    names = [name for name in ("python", "node") if name in languages(engine)]
    return [
        Boxed(name=f"{name}, {WARM}", engine=engine, meter=meter, language=name) for name in names
    ]


# -- memory of boxes that wait --


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Memory of one kind of waiting box: PSS of its processes, in MiB, as a mean."""

    kind: str
    boxes: int
    pss_mib: float


_KINDS: Final = (
    ("register.cjs", "typescript"),
    ("gate.cjs", "node"),
    ("_main.py", "python"),
    ("launcher", "any program"),
    ("era-program", "any program"),
)


def idle_boxes() -> list[Idle]:
    """Every box that waits now, by what its program's process is."""
    found: dict[str, list[float]] = {}
    for init, program in _boxes():
        command = Path(f"/proc/{program}/cmdline").read_bytes().decode(errors="replace")
        kind = next((name for part, name in _KINDS if part in command), "other")
        found.setdefault(kind, []).append(_pss_mib(init) + _pss_mib(program))
    return [
        Idle(kind=kind, boxes=len(sizes), pss_mib=sum(sizes) / len(sizes))
        for kind, sizes in sorted(found.items())
    ]


def _boxes() -> Iterator[tuple[int, int]]:
    """Process 1 and the program's process of each box of this process's launcher."""
    children = _children()
    pending = list(children.get(_self(), ()))
    members: dict[str, list[int]] = {}
    while pending:
        pid = pending.pop()
        pending += children.get(pid, [])
        if len(_names(pid)) == _BOX_DEPTH:
            members.setdefault(os.readlink(f"/proc/{pid}/ns/pid"), []).append(pid)
    for pids in members.values():
        if len(pids) == _MEMBERS:
            first, program = sorted(pids, key=lambda pid: int(_names(pid)[-1]))
            yield first, program


_MEMBERS: Final = 2
_BOX_DEPTH: Final = 3
"""Pid namespaces from ours inwards: ours, the launcher's, the box's."""


def _self() -> int:
    return int(Path("/proc/self/stat").read_text().split()[0])


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def _names(pid: int) -> list[str]:
    """The numbers of a process, from the outermost pid namespace inwards (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return status.split("NSpid:", 1)[1].splitlines()[0].split()


def _pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:", 1)[1].split()[0]) / 1024
