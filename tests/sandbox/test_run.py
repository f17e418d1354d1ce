"""A run's verdict, from what the processes of its box say and when; the box itself is played."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, cast

import pytest

from era.errors import InternalError
from era.models import Network
from era.sandbox.base import Program
from era.sandbox.namespaces.cgroups.base import Reading
from era.sandbox.namespaces.cgroups.none import NoGroup
from era.sandbox.namespaces.refusals import SCRATCH, refused
from era.sandbox.namespaces.run import Channel, Run, _finished_pump
from era.sandbox.namespaces.spawn import Launcher


class Deaf:
    """A launcher that does nothing with what it is told."""

    def send(self, message: dict[str, Any], fds: Any = ()) -> None:
        return


class OutOfMemory(NoGroup):
    """A group of which the kernel has killed everything, process 1 too."""

    def read(self) -> Reading:
        return Reading(oom_kills=1)


def started(timeout_seconds: float, group: NoGroup | None = None) -> Run:
    run = Run(1, group or NoGroup(), cast(Launcher, Deaf()), None, Network.OFFLINE)
    run._program = Program(argv=("/bin/true",), timeout_seconds=timeout_seconds)
    run._pumps = [_finished_pump(), _finished_pump()]
    run._channels = [Channel(run), Channel(run)]
    run.heard({"event": "started", "at_ns": 0}, [])
    return run


@pytest.mark.anyio
async def test_a_program_that_ended_in_time_is_no_timeout_however_long_its_box_takes_to_die() -> (
    None
):
    run = started(0.05)
    run.heard({"event": "ended", "status": 0, "at_ns": 1000, "cpu_ns": 0}, [])
    ending = asyncio.create_task(run.until_end(asyncio.Event()))
    await asyncio.sleep(0.2)  # the deadline has passed, and the box is not reaped yet
    assert not ending.done()
    run.box_exited()
    await ending
    ended = await run.result(())
    assert (ended.exit_code, ended.timed_out, ended.duration_ns) == (0, False, 1000)
    others = [channel.other_end for channel in run._channels]
    await run.finish()
    for fd in others:
        os.close(fd)


async def _let_go(run: Run) -> None:
    others = [channel.other_end for channel in run._channels]
    await run.finish()
    for fd in others:
        os.close(fd)


@pytest.mark.anyio
@pytest.mark.parametrize("exceeded", [True, False])
async def test_process_1_killed_at_the_memory_limit_is_the_memory_limit(exceeded: bool) -> None:
    run = started(5, OutOfMemory() if exceeded else NoGroup())
    run.heard({"event": "ended", "status": 9, "at_ns": 1000, "cpu_ns": 0}, [])
    run.box_exited(0, 9)
    await run.until_end(asyncio.Event())
    if exceeded:
        ended = await run.result(())
        assert (ended.exit_code, ended.signal, ended.oom_killed) == (137, "SIGKILL", True)
    else:
        with pytest.raises(InternalError):
            await run.result(())
    await _let_go(run)


@pytest.mark.anyio
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("status", [0, 1 << 8, 126 << 8, 9])
async def test_what_ended_before_its_program_began_has_no_exit_code(
    status: int, begun: bool
) -> None:
    run = started(5)
    if not begun:
        run._started = asyncio.get_running_loop().create_future()
    run.heard({"event": "ended", "status": status, "at_ns": 1000, "cpu_ns": 0}, [])
    run.box_exited()
    await run.until_end(asyncio.Event())
    if begun:
        assert (await run.result(())).exit_code == (137 if status == 9 else status >> 8)
    else:
        with pytest.raises(InternalError) as failed:
            await run.result(())
        assert failed.value.code == "execution_failed"
    await _let_go(run)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "message",
    [
        {"event": "failed", "step": "fork", "errno": errno.EAGAIN},
        {"event": "ended", "status": 9, "at_ns": 0, "cpu_ns": 0},
    ],
)
async def test_nobody_waits_at_a_gate_that_nobody_comes_to(message: dict[str, Any]) -> None:
    run = started(5)
    before = (run.broken, run.ready.done())
    run.heard(message, [])
    assert (before, run.broken, run.ready.done()) == ((False, False), True, True)
    run.box_exited()
    await _let_go(run)


@pytest.mark.anyio
async def test_a_program_that_ended_had_begun_in_whatever_order_it_is_heard() -> None:
    run = Run(1, NoGroup(), cast(Launcher, Deaf()), None, Network.OFFLINE)
    run._channels = [Channel(run), Channel(run)]
    os.write(run._channels[1].other_end, b'{"event": "started", "at_ns": 1}')
    before = run.begun
    run.ended({"status": 0, "at_ns": 2, "cpu_ns": 0})
    assert (before, run.begun) == (False, True)
    run.box_exited()
    await _let_go(run)


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [
        (SCRATCH, errno.ENOSPC, "storage_full"),
        ("network", errno.ENOSPC, "server_busy"),
        (SCRATCH, errno.ETOOMANYREFS, "server_busy"),
        ("launcher", errno.EMFILE, "server_busy"),
        (SCRATCH, errno.EINVAL, "execution_failed"),
        ("process 1", 0, "execution_failed"),
    ],
)
def test_why_there_is_no_box(step: str, number: int, code: str) -> None:
    assert refused(step, number).code == code
