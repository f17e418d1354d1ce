"""Whoever dies, nothing of a box outlives it, and no number of boxes leaves anything behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from era.errors import InternalError
from era.sandbox.base import BoxSpec, Limits
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, Watch, output_of, place, shell
from tests.sandbox.attack import ROOT
from tests.sandbox.boxes import namespaces_driver
from tests.sandbox.census import (
    Process,
    count,
    groups_of,
    launcher_processes,
    loops_naming,
    mounts_naming,
    network_of,
    settled,
    until,
)

TOOLS = BoxTools()
SMALL = BoxSpec(limits=Limits(memory_bytes=128 << 20, disk_bytes=64 << 20))
CYCLES = 200 if ROOT else 50


@pytest.fixture
async def driver(tmp_path: Path, anyio_backend: str) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path), on_disk=ROOT) as driver:
        yield driver


def _start_server(directory: Path) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.server", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    return server


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV])
def test_nothing_of_a_box_outlives_the_server(tmp_path: Path, end: signal.Signals) -> None:
    server = _start_server(tmp_path)
    token = str(tmp_path)
    try:
        family = Process(server.pid, "").family()
        networks = {network_of(one.pid) for one in family} - {""}  # gone with the last of them
        # launcher twice, process 1, program, ticker: what we look for is there to be found
        assert len(family) >= 5
        assert mounts_naming(token)
        assert bool(loops_naming(token)) is ROOT
        assert bool(groups_of(server.pid)) is ROOT
        assert len(networks) == 2
    finally:
        server.send_signal(end)
        server.communicate()
    until(lambda: not any(one.alive for one in family), "the end of every process")
    until(lambda: not mounts_naming(token), "the end of every mount")
    until(lambda: not loops_naming(token), "the end of every loop device")
    assert os.listdir(tmp_path / "images") == []
    assert bool(groups_of(server.pid)) is ROOT  # nobody was there to remove them ...
    detect().close()
    assert groups_of(server.pid) == []  # ... the next start does


@pytest.mark.anyio
@pytest.mark.parametrize("which", ["outer", "inner"])
async def test_a_run_fails_when_the_launcher_dies_and_the_next_box_works(
    driver: NamespacesDriver, tmp_path: Path, which: str
) -> None:
    outer, inner = launcher_processes(driver)
    watch = Watch(b"up\n")
    async with driver.box(SMALL) as box:
        program = shell(TOOLS, "echo up; sleep 600", timeout_seconds=0)
        run = asyncio.create_task(box.run(program, watch))
        await watch.came.wait()
        family = outer.family()
        assert len(family) >= 3
        os.kill((outer if which == "outer" else inner).pid, signal.SIGKILL)
        with pytest.raises(InternalError) as caught:
            await run
        assert caught.value.code == "execution_failed"
        assert str(tmp_path) not in str(caught.value.body())
    await settled(driver)
    until(lambda: not any(one.alive for one in family), "the end of every process")
    until(lambda: not loops_naming(str(tmp_path)), "the end of every loop device")
    async with driver.box(SMALL) as box:
        assert await output_of(box, shell(TOOLS, "echo on")) == "on\n"
        assert launcher_processes(driver)[0].pid != outer.pid


@pytest.mark.anyio
async def test_an_open_box_says_so_when_the_launcher_died(driver: NamespacesDriver) -> None:
    async with driver.box(SMALL) as box:
        os.kill(launcher_processes(driver)[1].pid, signal.SIGKILL)
        with pytest.raises(InternalError):
            await box.run(shell(TOOLS, "echo never"))
    async with driver.box(SMALL) as box:
        assert await output_of(box, shell(TOOLS, "echo on")) == "on\n"


@pytest.mark.anyio
async def test_process_1_of_a_box_killed_from_outside_is_no_success(
    driver: NamespacesDriver,
) -> None:
    _, inner = launcher_processes(driver)
    watch = Watch(b"up\n")
    async with driver.box(SMALL) as box:
        run = asyncio.create_task(box.run(shell(TOOLS, "echo up; sleep 600"), watch))
        await watch.came.wait()
        first, _program = inner.children()
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(InternalError):
            await run
        assert await output_of(box, shell(TOOLS, "echo on")) == "on\n"


async def _cycle(driver: NamespacesDriver) -> None:
    async with driver.box(SMALL) as box:
        place(box, "entry", b"some file\n")
        assert await output_of(box, shell(TOOLS, "cat entry; echo x > made")) == "some file\n"
    await settled(driver)


@pytest.mark.anyio
async def test_boxes_leave_nothing(driver: NamespacesDriver, tmp_path: Path) -> None:
    await _cycle(driver)
    await settled(driver)
    before = count(driver, str(tmp_path))
    assert before.launcher_children == 0
    for _ in range(CYCLES):
        await _cycle(driver)
    await settled(driver)
    assert count(driver, str(tmp_path)) == before
    assert os.listdir(tmp_path / "images") == []


@pytest.mark.anyio
async def test_the_count_sees_an_open_box(driver: NamespacesDriver, tmp_path: Path) -> None:
    await _cycle(driver)
    await settled(driver)
    idle = count(driver, str(tmp_path))
    watch = Watch(b"up\n")
    async with driver.box(SMALL) as box, driver.box(SMALL):
        run = asyncio.create_task(box.run(shell(TOOLS, "echo up; sleep 600"), watch))
        await watch.came.wait()
        busy = count(driver, str(tmp_path))
        box.cancel()
        await run
    names = ("server_fds", "launcher_children", "mounts")
    for name in (*names, "launcher_fds", "loops", "groups") if ROOT else names:
        assert getattr(busy, name) > getattr(idle, name), name
    assert busy.networks == idle.networks + 1


@pytest.mark.anyio
async def test_boxes_that_nobody_waited_for_leave_nothing(
    driver: NamespacesDriver, tmp_path: Path
) -> None:
    """Tasks are cancelled at every stage of opening and running a box."""
    await asyncio.gather(*(_cycle(driver) for _ in range(12)))
    await settled(driver)
    before = count(driver, str(tmp_path))
    for turns in range(30):
        tasks = [asyncio.create_task(_cycle(driver)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _cycle(driver)  # the launcher has heard of all of them
    await settled(driver)
    until(lambda: count(driver, str(tmp_path)).launcher_children == 0, "the last cleaners")
    await _cycle(driver)
    await settled(driver)
    assert count(driver, str(tmp_path)) == before
