"""Waiting with a limit, in tasks that have been through something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from era.waiting import ended, led, together, until, within

pytestmark = pytest.mark.anyio


class BrokenError(Exception):
    pass


async def fails(turns: int = 1) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    raise BrokenError


async def lasts(over: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        over.append("over")


def now() -> float:
    return asyncio.get_running_loop().time()


async def in_a_task_that_went_on(limit: Callable[[], object]) -> None:
    """`limit` in a task that was asked to end, and answered by cleaning up."""

    async def task() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await waits(limit)

    going = asyncio.ensure_future(task())
    await asyncio.sleep(0)
    going.cancel()
    await going


async def waits(limit: Callable[[], object]) -> None:
    with pytest.raises(TimeoutError):
        async with limit():  # type: ignore[attr-defined]
            await asyncio.Event().wait()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
async def test_a_limit_ends_as_a_timeout(seconds: float) -> None:
    for limit in (lambda: within(seconds), lambda: until(now() + seconds)):
        await waits(limit)
        await in_a_task_that_went_on(limit)


async def test_a_limit_inside_a_limit() -> None:
    async def task() -> None:
        async with within(600) as outer:
            await waits(lambda: within(0))
            assert not outer.expired()
            outer.reschedule(now())
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await task()


async def test_what_is_quick_enough_passes() -> None:
    async with within(600) as limit:
        limit.reschedule(now() + 600)
        await asyncio.sleep(0)
    async with within(None), until(None):
        await asyncio.sleep(0)
    assert not limit.expired()


async def test_a_request_to_end_is_no_timeout() -> None:
    async def task() -> None:
        async with within(600):
            await asyncio.Event().wait()

    going = asyncio.ensure_future(task())
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going


async def test_a_request_that_comes_with_the_timeout_stands() -> None:
    async def task() -> None:
        async with within(0.001) as limit:
            try:
                await asyncio.Event().wait()
            finally:
                assert limit.expired()
                me = asyncio.current_task()
                assert me is not None
                me.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(task())


async def test_a_failure_ends_the_others_and_leaves_no_request() -> None:
    over: list[str] = []
    me = asyncio.current_task()
    assert me is not None
    for turns in range(3):
        with pytest.raises(BrokenError):
            await together(lasts(over), fails(turns), lasts(over))
        with pytest.raises(BrokenError):
            await led(lasts(over), fails(turns))
        assert me.cancelling() == 0
    assert len(over) in range(6, 10)  # one that had not begun has nothing to end
    await waits(lambda: within(0))


async def test_all_to_the_end() -> None:
    done: list[int] = []

    async def work(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        done.append(turns)

    await together()
    await together(work(3), work(1), work(2))
    assert done == [1, 2, 3]


async def test_the_leader_takes_the_other_along() -> None:
    over: list[str] = []
    await led(asyncio.sleep(0.001), lasts(over))
    assert over == ["over"]


async def test_the_other_has_its_turn_first_and_may_end_first() -> None:
    turns: list[str] = []

    async def leader() -> None:
        turns.append("leader")
        await asyncio.sleep(0.001)
        turns.append("end")

    async def beside() -> None:
        turns.append("beside")

    await led(leader(), beside())
    assert turns == ["beside", "leader", "end"]


async def test_nothing_goes_on_when_the_caller_is_cancelled_however_often() -> None:
    over: list[str] = []
    going = asyncio.ensure_future(together(lasts(over), lasts(over)))
    await asyncio.sleep(0.001)
    going.cancel()
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert over == ["over", "over"]


async def test_ending_what_has_ended() -> None:
    over: list[str] = []
    failed = asyncio.ensure_future(fails())
    await asyncio.wait((failed,))
    running = asyncio.ensure_future(lasts(over))
    await asyncio.sleep(0)
    await ended((failed, running))
    assert running.cancelled()
    assert over == ["over"]
