"""Turns: order, bounds, and no turn lost or given twice."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.errors import BusyError
from era.sessions.queue import Queues, Turnstile
from era.sessions.settings import QueueLimits

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    gate, order = Turnstile(1), []
    await gate.enter()

    async def come(number: int) -> None:
        assert await gate.enter()
        order.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(4)]
    await settle()
    assert (gate.inside, gate.waiting, order) == (1, 4, [])
    for count in range(1, 5):
        gate.leave()
        await settle()
        assert order == list(range(count))
    gate.leave()
    assert (gate.inside, gate.free) == (0, True)
    await asyncio.gather(*tasks)


async def test_whoever_need_not_wait_is_told_so() -> None:
    gate = Turnstile(2)
    assert [await gate.enter(), await gate.enter()] == [False, False]
    assert not gate.free


async def test_a_turn_that_comes_with_the_cancel_is_passed_on() -> None:
    gate = Turnstile(1)
    await gate.enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await settle()
    gate.leave()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert (gate.inside, gate.waiting) == (1, 0)


@given(st.lists(st.sampled_from(["come", "leave", "give up"]), max_size=40), st.integers(1, 3))
def test_the_count_is_always_right(acts: list[str], capacity: int) -> None:
    async def play() -> None:
        gate = Turnstile(capacity)
        tasks: list[asyncio.Task[bool]] = []
        inside = 0
        for act in acts:
            if act == "come":
                tasks.append(asyncio.create_task(gate.enter()))
            elif act == "leave" and inside:
                gate.leave()
                inside -= 1
            elif act == "give up" and tasks:
                tasks.pop().cancel()
            await settle()
            done = [task for task in tasks if task.done()]
            tasks = [task for task in tasks if not task.done()]
            inside += len(done)
            assert gate.inside == inside <= capacity
            assert gate.waiting == len(tasks)
            assert not tasks or inside == capacity
        for task in tasks:
            task.cancel()
        await settle()

    asyncio.run(play())


async def test_bounds_are_checked_for_who_would_have_to_wait() -> None:
    queues = Queues(QueueLimits(concurrent_runs=1, waiting_runs=2, waiting_per_session=1))
    queues.check(1)
    async with queues.turn(1) as waited, queues.slot():
        assert not waited

        async def another(key: int) -> None:
            async with queues.turn(key), queues.slot():
                pass

        same = asyncio.create_task(another(1))
        await settle()
        with pytest.raises(BusyError) as caught:
            queues.check(1)
        assert (caught.value.code, caught.value.retry_after_seconds) == ("session_queue_full", 1)
        queues.check(2)
        other = asyncio.create_task(another(2))
        await settle()
        assert queues.waiting == 2
        for key in (3, None):
            with pytest.raises(BusyError) as caught:
                queues.check(key)
            assert caught.value.code == "server_busy"
    await asyncio.gather(same, other)
    assert queues.waiting == 0
    queues.check(None)


async def test_a_full_server_still_takes_who_need_not_wait() -> None:
    queues = Queues(QueueLimits(concurrent_runs=4, waiting_runs=0))
    async with queues.turn(1), queues.slot():
        queues.check(2)
        with pytest.raises(BusyError):
            queues.check(1)
