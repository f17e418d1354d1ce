"""Makes and ends boxes by the thousand, and counts what is left.

    python -m bench.leaks [boxes, 10000 by default] [at once, 4 by default]

Counted before and after, with no box open: descriptors of the service and of its launcher, their
processes, mounts, loop devices, cgroups, network namespaces (the kernel's own number of them, where it
tells), memory of both processes.  Ends with 1 when anything but memory grew.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from era.sandbox.base import BoxSpec, Limits
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, output_of, place, shell
from tests.sandbox.boxes import namespaces_driver
from tests.sandbox.census import Process, count, launcher_processes, until

SPEC = BoxSpec(limits=Limits(memory_bytes=128 << 20, disk_bytes=64 << 20))
ENDINGS = ("exit 0", "exit 3", "kill -KILL $$", "sleep 60 & exit 0", "echo x > /tmp/x")
WARM_UP = 200


async def cycle(driver: NamespacesDriver, number: int) -> None:
    """One box: a file placed, a program run, everything closed.  Every tenth is cancelled."""
    async with driver.box(SPEC) as box:
        place(box, "entry", b"text\n")
        await output_of(box, shell(BoxTools(), "cat entry; mkdir d; echo x > d/y"))
        script = ENDINGS[number % len(ENDINGS)]
        run = asyncio.create_task(box.run(shell(BoxTools(), script)))
        if number % 10 == 9:
            await asyncio.sleep(0.003)
            box.cancel()
        await run


async def cycles(driver: NamespacesDriver, total: int, at_once: int) -> None:
    """`total` boxes, `at_once` at a time."""
    numbers = iter(range(total))

    async def worker() -> None:
        for number in numbers:
            await cycle(driver, number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


def resident_kib(process: Process) -> int:
    """Memory of a process."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0])


def namespaces_of_the_kernel() -> int:
    """How many network namespaces there are, whoever holds them; 0 where it does not say."""
    try:
        lines = Path("/proc/slabinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("net_namespace "))


def census(driver: NamespacesDriver, directory: str) -> dict[str, int]:
    """Everything counted, once the last cleaner is done."""
    outer, inner = launcher_processes(driver)
    until(lambda: not inner.family(), "the end of the cleaners")
    mine = Process(os.getpid(), "")
    return {
        **asdict(count(driver, directory)),
        "kernel network namespaces": namespaces_of_the_kernel(),
        "service KiB": resident_kib(mine),
        "launcher KiB": resident_kib(inner),
        "outer KiB": resident_kib(outer),
    }


def slack(name: str, at_once: int) -> int:
    """By how much a count may differ without being a leak."""
    if name in ("launcher_fds", "mounts", "loops"):
        return 2 * at_once  # empty scratch kept ready: as much as was ever used at once
    if name == "kernel network namespaces":
        return 50  # taken apart in the kernel's own time, and other programs have some
    return 1 << 20 if name.endswith("KiB") else 0


async def main(total: int, at_once: int) -> int:
    """Count, run, count; the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        async with namespaces_driver(directory, on_disk=os.geteuid() == 0) as driver:
            await cycles(driver, WARM_UP, at_once)
            before, began = census(driver, directory), time.monotonic()
            await cycles(driver, total, at_once)
            seconds, after = time.monotonic() - began, census(driver, directory)
    print(f"{total} boxes in {seconds:.1f} s, {total / seconds:.0f} a second, {at_once} at once")
    for name, value in before.items():
        print(f"{name:28}{value:>10} ->{after[name]:>10}")
    grown = [name for name in before if after[name] > before[name] + slack(name, at_once)]
    print("nothing is left" if not grown else f"LEFT: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    sys.exit(asyncio.run(main(*[*arguments, *(10_000, 4)[len(arguments) :]])))
