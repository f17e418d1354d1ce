"""Leases: one node at a time serves a session, and a late one commits nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

import pytest

from era.errors import ConflictError, InternalError, NotFoundError
from era.models import SetupStatus
from era.storage.base import Records, RunCommit
from era.storage.leases import Activity, Holder, Lease, LeaseStore, Node
from tests.contracts.records.kit import FAILED, FREE, NEW, PIP, make, refuses

A, B = Node(name="a/1", address="http://a"), Node(name="b/1", address="http://b")
LONG = 3600.0
OVER = 0.0
"""A time that is over as soon as it has begun."""


class Shared(Records, LeaseStore, Protocol):
    """A keeper for several nodes."""


def commit_of(lease: Lease, data: str, epoch: int | None) -> RunCommit:
    return RunCommit(uid=lease.uid, snapshot_revision=0, finished_at_ms=9, data=data, epoch=epoch)


async def lease(records: Shared, node: Node, ttl: float = LONG, name: str = "s") -> Lease:
    taken = await records.take_lease(name, node, ttl)
    assert isinstance(taken, Lease)
    return taken


async def test_one_node_has_a_session_and_the_other_learns_where(records: Shared) -> None:
    session = await make(records)
    mine = await lease(records, A)
    assert mine == Lease(uid=session.uid, epoch=1)
    assert await records.take_lease("s", B, LONG) == Holder(uid=session.uid, address="http://a")
    assert await lease(records, A) == mine
    with pytest.raises(NotFoundError):
        await records.take_lease("none", A, LONG)


async def test_of_many_that_ask_at_once_one_has_it(records: Shared) -> None:
    await make(records)
    nodes = [Node(name=f"n{number}", address=f"http://n{number}") for number in range(12)]
    taken = await asyncio.gather(*(records.take_lease("s", node, LONG) for node in nodes))
    assert sum(isinstance(each, Lease) for each in taken) == 1


async def test_an_ended_lease_goes_to_the_next_with_another_epoch(records: Shared) -> None:
    await make(records)
    first = await lease(records, A, OVER)
    assert await lease(records, B, OVER) == Lease(uid=first.uid, epoch=2)
    assert await lease(records, A) == Lease(uid=first.uid, epoch=3)
    await records.release_leases(B, [first.uid])
    assert isinstance(await records.take_lease("s", B, LONG), Holder)
    await records.release_leases(A, [first.uid])
    assert await lease(records, B) == Lease(uid=first.uid, epoch=4)


async def test_a_late_commit_is_refused_and_one_in_time_is_not(records: Shared) -> None:
    await make(records)
    old = await lease(records, A, OVER)
    # Its time is over, but nobody else has begun anything.
    await records.commit_run(commit_of(old, "[1]", old.epoch), FREE)
    new = await lease(records, B)
    with pytest.raises(InternalError) as caught:
        await records.commit_run(commit_of(old, "[2]", old.epoch), FREE)
    assert caught.value.code == "execution_failed"
    assert (await records.get("s")).data == "[1]"
    await records.commit_run(commit_of(new, "[3]", new.epoch), FREE)
    assert (await records.get("s")).data == "[3]"
    # Where there is one node nobody asks for leases.
    await records.commit_run(commit_of(new, "[4]", None), FREE)
    assert (await records.get("s")).data == "[4]"


async def test_a_deleted_session_is_not_taken_for_one_that_was_taken_over(records: Shared) -> None:
    await make(records)
    mine = await lease(records, A)
    await records.delete("s")
    with refuses("session_not_found"):
        await records.commit_run(commit_of(mine, "[1]", mine.epoch), FREE)
    assert await records.renew_leases(A, LONG) == {}
    again = await make(records)
    assert (await lease(records, B)) == Lease(uid=again.uid, epoch=1)
    with refuses("session_not_found"):
        await records.commit_run(commit_of(mine, "[1]", mine.epoch), FREE)


async def test_which_sessions_there_are(records: Records) -> None:
    kept, gone = await make(records, "kept"), await make(records, "gone")
    await records.delete("gone")
    assert await records.existing([kept.uid, gone.uid, 999]) == {kept.uid}
    assert await records.existing([]) == frozenset()


async def test_renewing_keeps_what_was_not_lost(records: Shared) -> None:
    for name in ("kept", "late", "lost", "given"):
        await make(records, name)
    kept = await lease(records, A, LONG, "kept")
    late = await lease(records, A, OVER, "late")
    await lease(records, A, OVER, "lost")
    given = await lease(records, A, LONG, "given")
    await lease(records, B, LONG, "lost")
    await records.release_leases(A, [given.uid])
    assert await records.renew_leases(A, LONG) == {kept.uid: 1, late.uid: 1}
    assert isinstance(await records.take_lease("late", B, LONG), Holder)
    assert isinstance(await records.take_lease("given", B, LONG), Lease)


async def test_a_node_that_starts_again_gives_back_what_it_had(records: Shared) -> None:
    await make(records)
    await make(records, "t")
    await lease(records, A)
    await lease(records, B, name="t")
    await records.release_nodes("a/")
    again = Node(name="a/2", address="http://a")
    assert (await lease(records, again)).epoch == 2
    assert isinstance(await records.take_lease("t", again, LONG), Holder)


async def test_others_learn_what_goes_on(records: Shared) -> None:
    session = await make(records)
    await make(records, "t")
    await lease(records, A)
    await lease(records, A, name="t")
    assert tuple(await records.holders(B)) == tuple(await records.holders(A)) == ()
    assert [holder.address for holder in await records.holders(B, "s")] == ["http://a"]
    assert tuple(await records.holders(A, "s")) == ()
    await records.tell(A, {session.uid: Activity(running=True, queued=2)})
    await records.tell(B, {session.uid: Activity(running=False, queued=9)})
    busy = Holder(uid=session.uid, address="http://a", running=True, queued=2)
    assert tuple(await records.holders(B)) == (busy,)
    assert tuple(await records.holders(B, "s")) == (busy,)
    await records.release_nodes("a/")
    assert tuple(await records.holders(B)) == ()
    assert tuple(await records.holders(B, "s")) == ()


# --- setups -------------------------------------------------------------------------------------


async def pending(records: Records, name: str) -> int:
    return (await records.create(name, replace(NEW, setup=PIP), 1, "{}")).uid


async def status(records: Records, name: str) -> SetupStatus:
    setup = (await records.get(name)).setup
    assert setup is not None
    return setup.status


async def test_a_setup_of_a_dead_node_is_taken_up_and_one_of_a_live_node_is_not(
    records: Records,
) -> None:
    live, dead = await pending(records, "live"), await pending(records, "dead")
    assert await records.claim_setup("a/1", LONG) is not None
    assert await records.claim_setup("b/1", OVER) is not None
    assert await records.reset_running_setups(3, FAILED, None) == 1
    assert await status(records, "live") is SetupStatus.RUNNING
    assert await status(records, "dead") is SetupStatus.PENDING
    assert await records.renew_setups("a/1", [live, dead], LONG) == {live}
    assert await records.renew_setups("a/1", [], LONG) == frozenset()
    assert await records.renew_setups("b/1", [live, dead], LONG) == frozenset()
    again = await records.claim_setup("a/1", LONG)
    assert again is not None
    assert (again.uid, again.attempts, again.epoch) == (dead, 2, 2)
    # The same node, started again.
    assert await records.reset_running_setups(3, FAILED, "a/") == 2


async def test_a_late_node_does_not_finish_the_setup_of_another(records: Records) -> None:
    uid = await pending(records, "s")
    late = await records.claim_setup("a/1", OVER)
    assert late is not None
    await records.reset_running_setups(3, FAILED, None)
    with pytest.raises(ConflictError):
        await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", None, late.epoch)
    now = await records.claim_setup("b/1", LONG)
    assert now is not None
    with pytest.raises(ConflictError):
        await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", None, late.epoch)
    with refuses("not_found"):
        await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "no such layer", now.epoch)
    assert await status(records, "s") is SetupStatus.RUNNING
    await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", None, now.epoch)
    assert await status(records, "s") is SetupStatus.COMPLETED
