"""Runs an attack in a box of its own while others go on living."""

from __future__ import annotations

import asyncio
import os

import pytest

from era.sandbox.base import BoxSpec, Exit, Limits, Program
from era.sandbox.namespaces.cgroups.detect import find_v1, find_v2
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, one, output_of, python, shell
from tests.sandbox.census import groups_in_use, launcher_processes, settled, until

TOOLS = BoxTools()
ROOT = os.geteuid() == 0
needs_cgroups = pytest.mark.skipif(
    not (find_v1() or find_v2()) or not ROOT, reason="no cgroup is delegated to an ordinary user"
)
SMALL = BoxSpec(limits=Limits(memory_bytes=128 << 20, disk_bytes=64 << 20, pids=64))


async def answers(driver: NamespacesDriver) -> bool:
    """Whether another box works."""
    return (await one(driver, shell(TOOLS, "echo well"), SMALL)).stdout == b"well\n"


async def attack(
    driver: NamespacesDriver, program: Program | str, spec: BoxSpec = SMALL, **more: object
) -> Exit:
    """Run `program` (or Python code) in a box of `spec`; how it ended.

    Meanwhile and afterwards other boxes answer, the launcher is the same, and nothing is left.
    """
    if isinstance(program, str):
        program = python(TOOLS, program, **more)
    before = launcher_processes(driver)
    async with driver.box(spec) as box:
        running = asyncio.create_task(box.run(program))
        assert await answers(driver)
        while not running.done():
            await asyncio.wait([running], timeout=0.2)
            assert await answers(driver)
        ended = await running
        # The box itself is not broken either: the next program in it runs.
        assert await output_of(box, shell(TOOLS, "echo well")) == "well\n"
    assert await answers(driver)
    assert launcher_processes(driver) == before
    await settled(driver)
    until(lambda: not before[1].family(), "the end of every process")
    assert groups_in_use(driver) == []
    return ended


def ok(ended: Exit) -> str:
    """Standard output of a program that must have ended well."""
    assert (ended.exit_code, ended.stderr) == (0, b"")
    return ended.stdout.decode()
