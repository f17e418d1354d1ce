"""What a failing disk is called, and work that outlasts whoever asked for it."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from era.errors import EraError
from era.workspace.failures import settled, translated

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.EDQUOT, "storage_full"),
        (errno.EIO, "internal"),
        (errno.EACCES, "internal"),
    ],
)
def test_a_failure_names_no_path(number: int, code: str) -> None:
    with pytest.raises(EraError) as caught, translated():
        raise OSError(number, "what happened", "/host/path")
    assert caught.value.code == code
    assert "/host/path" not in str(caught.value.body())


async def test_results_and_failures_come_through() -> None:
    assert await settled(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ZeroDivisionError):
        await settled(asyncio.to_thread(lambda: 1 // 0))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_the_thread(fails: bool) -> None:
    go, over = threading.Event(), []

    def work() -> None:
        go.wait(20)
        over.append(True)
        if fails:
            raise OSError("nobody hears this")

    task = asyncio.ensure_future(settled(asyncio.to_thread(work)))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over
