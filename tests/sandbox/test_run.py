"""A run's verdict, from what the processes of its box say and when; the box itself is played."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, cast

import pytest

from era.models import Network
from era.sandbox.base import Program
from era.sandbox.namespaces.cgroups.none import NoGroup
from era.sandbox.namespaces.driver import _why_no_box
from era.sandbox.namespaces.run import Channel, Run, _finished_pump
from era.sandbox.namespaces.spawn import Launcher


class Deaf:
    """A launcher that does nothing with what it is told."""

    def send(self, message: dict[str, Any], fds: Any = ()) -> None:
        return


def started(timeout_seconds: float) -> Run:
    run = Run(1, NoGroup(), cast(Launcher, Deaf()), None, Network.OFFLINE)
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


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.ETOOMANYREFS, "server_busy"),
        (errno.EMFILE, "server_busy"),
        (errno.EINVAL, "execution_failed"),
    ],
)
def test_why_there_is_no_box(number: int, code: str) -> None:
    assert _why_no_box(number).code == code
