"""Where a process may not open files enough, runs are refused and nothing is lost: no process of the
service's, no descriptor, no other box."""

from __future__ import annotations

import itertools
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from era.errors import EraError
from era.sandbox.base import BoxSpec, Limits
from era.sandbox.namespaces.child import wire
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, one, shell
from tests.sandbox.attack import ROOT
from tests.sandbox.boxes import namespaces_driver
from tests.sandbox.census import launcher_processes, settled
from tests.sandbox.standing import run_code, standing_driver

HELLO = shell(BoxTools(), "echo hi")
SMALL = BoxSpec(limits=Limits(memory_bytes=128 << 20, disk_bytes=64 << 20))
ENOUGH = 24
"""More descriptors than the launcher needs for one box."""


@pytest.fixture
async def driver(tmp_path: Path, anyio_backend: str) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path), on_disk=ROOT) as driver:
        yield driver


def _open_files(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))


@contextmanager
def _room_for(pid: int, more: int) -> Iterator[None]:
    """The process may open at most so many files beside those that it has: fewer, where some of the
    numbers that follow are taken."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = set(_open_files(pid))
    first_free = next(number for number in itertools.count() if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free + more, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


@pytest.mark.skipif(not ROOT, reason="the limits of a process with other capabilities are root's")
@pytest.mark.anyio
async def test_a_launcher_short_of_descriptors_refuses_and_loses_nothing(
    driver: NamespacesDriver,
) -> None:
    first = await one(driver, HELLO, SMALL)
    await settled(driver)
    launcher = launcher_processes(driver)[1]
    counts: list[int] = []
    codes: list[int | str] = []
    for _again in range(2):
        for more in range(ENOUGH):
            with _room_for(launcher.pid, more):
                try:
                    codes.append((await one(driver, HELLO, SMALL)).exit_code)
                except EraError as error:
                    codes.append(error.code)
                await settled(driver)
            assert launcher.alive
        counts.append(len(_open_files(launcher.pid)))
    assert set(codes) == {0, "server_busy"}
    assert counts[0] == counts[1]
    assert (await one(driver, HELLO, SMALL)).stdout == first.stdout


@contextmanager
def _all_open_but(spare: int) -> Iterator[None]:
    """This process can open `spare` files more."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_open_files(os.getpid())[-1] + 64, usual[1]))
    taken = []
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        while spare:
            os.close(taken.pop())
            spare -= 1
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@pytest.mark.anyio
async def test_a_server_short_of_descriptors_makes_boxes_ahead_again_later(tmp_path: Path) -> None:
    async with standing_driver(str(tmp_path), count=1) as (driver, runtimes):
        for spare in range(2, 30, 3):
            with _all_open_but(spare):
                assert (await run_code(driver, runtimes, "print(1)")).stdout == b"1\n"
                await driver.quiet()
            for shelf in driver.pool._shelves.values():
                shelf.not_before = 0
            driver.pool._wanted.set()
            await driver.fill()
        await driver.quiet()
        assert len(driver._runs) == len(driver._ready) == 1
        assert not driver.openings.busy


def test_a_message_says_when_its_descriptors_did_not_come() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, {"a": 1}, [0, 0, 0])
        with _all_open_but(1):
            message, fds = wire.receive(theirs)
            assert fds == []
        assert message is not None
        with pytest.raises(OSError, match="Too many open files"):
            wire.demand_fds(message)
        wire.send(ours, {"a": 1}, [0, 0, 0])
        message, fds = wire.receive(theirs)
        assert len(fds) == 3
        assert message == {"a": 1}
        wire.demand_fds(message)
        for fd in fds:
            os.close(fd)
