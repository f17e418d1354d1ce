"""Makes and ends boxes by the thousand, on demand and made ahead, and counts what is left.

    python -m bench.leaks [boxes, 10000 by default] [at once, 4 by default]

Counted before and after, with no box in use: processes, mounts, loop devices, cgroups, namespaces, files,
scratch images, descriptors of the service and of its launcher, users that boxes have been given, and the
memory of the service, the launcher and the standing interpreter.  Of namespaces and cgroups also
the kernel's own number, where it tells: that sees those that nobody holds any more.  Ends with 1 when
anything grew by more than what may be kept for the next boxes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Final

from era.runtimes import Runtimes
from era.sandbox.base import BoxSpec, Limits
from tests.contracts.driver import BoxTools, output_of, place, shell
from tests.sandbox.census import Process, count, launcher_processes
from tests.sandbox.standing import Standing, run_code, standing_driver

COLD: Final = BoxSpec(limits=Limits(memory_bytes=128 << 20, disk_bytes=64 << 20))
ENDINGS: Final = ("exit 0", "exit 3", "kill -KILL $$", "sleep 60 & exit 0", "echo x > /tmp/x")
PROGRAMS: Final = (
    "print('text')",
    "import os; os.mkdir('d'); open('d/x', 'w').write('y')",
    "import subprocess; subprocess.Popen(['sleep', '60'])",
    "raise SystemExit(3)",
    "import os; os.kill(os.getpid(), 9)",
)
READY: Final = 4
WARM_UP: Final = 200
_NAMESPACES: Final = (
    "net_namespace",
    "mnt_namespace",
    "pid_namespace",
    "user_namespace",
    "nsproxy",
)
_GROUPS: Final = "kernel memory groups, cached"
"""A memory cgroup that was removed lives on in the kernel while a file's page that it brought in is
cached; dropping the cache lets go of all.  Shown, and no leak of ours."""
_MEMORY_KIB: Final = 16 << 10
"""By so much a process may grow in ten thousand boxes: caches and pieces of freed memory."""

Made = tuple[Standing, Runtimes]


async def cycle(made: Made, number: int) -> None:
    """One box, every other one made ahead.  Every tenth is cancelled."""
    if number % 2:
        await ahead(made, number // 2)
    else:
        await on_demand(made[0], number // 2)


async def ahead(made: Made, number: int) -> None:
    """A program of a Python that stands ready, where the pool has one; left alone, or not waited for."""
    driver, runtimes = made
    run = asyncio.create_task(run_code(driver, runtimes, PROGRAMS[number % len(PROGRAMS)]))
    if number % 10 == 9:
        await asyncio.sleep(0.003)
        run.cancel()
    await asyncio.wait((run,))
    if not run.cancelled():
        run.result()


async def on_demand(driver: Standing, number: int) -> None:
    """A file placed, two programs run, everything closed."""
    async with driver.box(COLD) as box:
        place(box, "entry", b"text\n")
        await output_of(box, shell(BoxTools(), "cat entry; mkdir d; echo x > d/y"))
        script = ENDINGS[number % len(ENDINGS)]
        run = asyncio.create_task(box.run(shell(BoxTools(), script)))
        if number % 10 == 9:
            await asyncio.sleep(0.003)
            box.cancel()
        await run


async def cycles(made: Made, total: int, at_once: int) -> None:
    """`total` boxes, `at_once` at a time."""
    numbers = iter(range(total))

    async def worker() -> None:
        for number in numbers:
            await cycle(made, number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def settled(driver: Standing) -> None:
    """Wait until the pool is full and nothing else is under way."""
    await driver.fill(READY)
    _, inner = launcher_processes(driver)
    async with asyncio.timeout(60):
        while len(inner.family()) != 1 + 2 * READY or driver.opening:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def resident_kib(process: Process) -> int:
    """Memory of a process."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0])


def of_the_kernel() -> dict[str, int]:
    """How many namespaces and memory cgroups there are, whoever holds them; without what it does not say."""
    found: dict[str, int] = {}
    for path, index in (("/proc/slabinfo", 1), ("/proc/cgroups", 2)):
        try:
            rows = (line.split() for line in Path(path).read_text().splitlines())
            found |= {row[0]: int(row[index]) for row in rows if row[0] in (*_NAMESPACES, "memory")}
        except OSError:
            continue
    groups = found.pop("memory", 0)
    return {f"kernel {name}": value for name, value in found.items()} | {_GROUPS: groups}


def standing_interpreter(driver: Standing) -> Process:
    """The one whose forks are the boxes that wait."""
    children = launcher_processes(driver)[1].children()
    (found,) = (child for child in children if child.name != "era-box")
    return found


def census(driver: Standing, directory: str) -> dict[str, int]:
    """Everything counted."""
    outer, inner = launcher_processes(driver)
    links = [
        os.readlink(one) for one in Path(f"/proc/{inner.pid}/fd").iterdir() if one.is_symlink()
    ]
    kinds = Counter(path.parts[len(Path(directory).parts)] for path in Path(directory).rglob("*"))
    return {
        **asdict(count(driver, directory)),
        "processes": len(outer.family()),
        "users given to boxes": sum("user:" in link for link in links),
        "networks kept": sum("net:" in link for link in links),
        "files": sum(kinds.values()),
        "scratch images": kinds["images"] - 1,
        **of_the_kernel(),
        "service KiB": resident_kib(Process(os.getpid(), "")),
        "launcher KiB": resident_kib(inner),
        "outer KiB": resident_kib(outer),
        "standing interpreter KiB": resident_kib(standing_interpreter(driver)),
    }


def slack(name: str, at_once: int) -> int:
    """By how much a count may differ without being a leak."""
    if name in ("launcher_fds", "mounts", "loops", "users given to boxes", "networks kept"):
        return 2 * at_once + READY  # kept for the next boxes: as much as was ever used at once
    if name == _GROUPS:
        return 1 << 30
    if name.startswith("kernel "):
        return 100  # taken apart in the kernel's own time, and other programs have some
    return _MEMORY_KIB if name.endswith("KiB") else 0


async def main(total: int, at_once: int) -> int:
    """Count, run, count; the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        on_disk = os.geteuid() == 0
        async with standing_driver(directory, count=READY, on_disk=on_disk) as made:
            await cycles(made, WARM_UP, at_once)
            await settled(made[0])
            before, began = census(made[0], directory), time.monotonic()
            await cycles(made, total, at_once)
            seconds = time.monotonic() - began
            await settled(made[0])
            after = census(made[0], directory)
    print(f"{total} boxes in {seconds:.1f} s, {total / seconds:.0f} a second, {at_once} at once")
    for name, value in before.items():
        print(f"{name:30}{value:>10} ->{after[name]:>10}")
    grown = [name for name in before if after[name] > before[name] + slack(name, at_once)]
    print("nothing is left" if not grown else f"LEFT: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    sys.exit(asyncio.run(main(*[*arguments, *(10_000, 4)[len(arguments) :]])))
