"""A node that stops, or is cut off, anywhere in a commit: the next one takes the session over, and what
the late one does afterwards changes nothing.

The late node reaches the database by a wire of its own, so it can be told from the other and cut off.
What the other waits for is the database, which ends a transaction that stands still.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, event, make_url

from era.errors import InternalError
from era.models import Changes
from era.storage.base import RunCommit
from era.storage.leases import Lease, Node
from era.storage.records.postgres import PostgresRecords
from era.waiting import within
from tests.contracts.records import FREE, file, make, paths
from tests.servers.postgres import Postgres
from tests.servers.relay import Relay, relay

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

LATE, NEXT = Node(name="late/1", address="http://late"), Node(name="next/1", address="http://next")
COMMIT = "commit"
PATIENCE = 120.0


@pytest.fixture
def wire(postgres_server: Postgres) -> Iterator[Relay]:
    with relay(postgres_server) as wire:
        yield wire


@pytest.fixture
def stall_seconds(request: pytest.FixtureRequest) -> float:
    """How long the database lets a transaction of the late node stand still: longer than a busy machine
    lets any thread wait."""
    return float(getattr(request, "param", 3.0))


@pytest.fixture
async def late(
    wire: Relay, postgres_url: str, stall_seconds: float
) -> AsyncIterator[PostgresRecords]:
    """The node that will be late."""
    name = make_url(postgres_url).database
    assert name is not None
    records = await asyncio.to_thread(PostgresRecords, wire.url(name), stall_seconds=stall_seconds)
    yield records
    await records.close()


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[PostgresRecords]:
    """The node that takes over."""
    records = await asyncio.to_thread(PostgresRecords, postgres_url)
    yield records
    await records.close()


class Steps:
    """Calls `reached` before the step numbered `at` of the late node: its statements, then its COMMIT."""

    def __init__(self, wire: Relay) -> None:
        self._folder = str(wire.folder)
        self._left = 0
        self.reached: Callable[[], None] | None = None

    def arm(self, at: int | str, reached: Callable[[], None]) -> None:
        self._left = at if isinstance(at, int) else -1
        self.reached = reached

    def statement(self, connection: Connection, *_: object) -> None:
        if self._is_late(connection):
            self._left -= 1
            if self._left == 0:
                self._reach()

    def commit(self, connection: Connection) -> None:
        if self._is_late(connection) and self._left != 0:
            self._reach()

    def _is_late(self, connection: Connection) -> bool:
        return self.reached is not None and connection.engine.url.query["host"] == self._folder

    def _reach(self) -> None:
        reached, self.reached = self.reached, None
        assert reached is not None
        reached()


@pytest.fixture
def steps(wire: Relay) -> Iterator[Steps]:
    steps = Steps(wire)
    event.listen(Engine, "before_cursor_execute", steps.statement)
    event.listen(Engine, "commit", steps.commit)
    yield steps
    event.remove(Engine, "before_cursor_execute", steps.statement)
    event.remove(Engine, "commit", steps.commit)


def a_commit(lease: Lease, name: str) -> RunCommit:
    return RunCommit(
        uid=lease.uid,
        snapshot_revision=0,
        finished_at_ms=9,
        data=f'["{name}"]',
        changes=Changes(written=(file(name, name),)),
        epoch=lease.epoch,
    )


async def taken(records: PostgresRecords, node: Node) -> Lease:
    """The lease; the one before it is over at once."""
    async with within(PATIENCE):
        while not isinstance(lease := await records.take_lease("s", node, 0.0), Lease):
            await asyncio.sleep(0.01)
    return lease


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, COMMIT])
async def test_a_node_that_stops_in_a_commit(
    at: int | str, late: PostgresRecords, other: PostgresRecords, steps: Steps
) -> None:
    await make(other)
    there, goes_on = threading.Event(), threading.Event()

    def stop() -> None:
        there.set()
        goes_on.wait(PATIENCE)

    lease = await taken(late, LATE)
    steps.arm(at, stop)
    going = asyncio.ensure_future(late.commit_run(a_commit(lease, "late"), FREE))
    try:
        assert await asyncio.to_thread(there.wait, PATIENCE)
        next_lease = await taken(other, NEXT)
        assert next_lease.epoch == lease.epoch + 1
        await other.commit_run(a_commit(next_lease, "next"), FREE)
    finally:
        goes_on.set()
    with pytest.raises(InternalError):
        await going
    assert await paths(other) == ["next"]
    assert (await other.get("s")).data == '["next"]'
    # It is a node like any other again.
    again = await taken(late, LATE)
    await late.commit_run(a_commit(again, "late"), FREE)
    assert await paths(other) == ["late", "next"]


@pytest.mark.parametrize(
    ("lost", "stall_seconds"), [("request", 3.0), ("answer", 60.0)], indirect=["stall_seconds"]
)
async def test_a_commit_that_is_lost_on_the_way(
    lost: str, late: PostgresRecords, other: PostgresRecords, steps: Steps, wire: Relay
) -> None:
    await make(other)
    lease = await taken(late, LATE)
    there = threading.Event()

    def go_dead() -> None:
        if lost == "request":
            wire.requests_held.set()
        wire.answers_held.set()
        there.set()

    steps.arm(COMMIT, go_dead)
    going = asyncio.ensure_future(late.commit_run(a_commit(lease, "late"), FREE))
    assert await asyncio.to_thread(there.wait, PATIENCE)
    next_lease = await taken(other, NEXT)
    # Whether it was done, or not, nobody told: it is all there, or nothing of it.
    done = lost == "answer"
    assert await paths(other) == (["late"] if done else [])
    assert (await other.get("s")).data == ('["late"]' if done else "{}")
    await other.commit_run(a_commit(next_lease, "next"), FREE)
    assert not going.done()
    wire.cut()
    with pytest.raises(InternalError):
        await going
    assert await paths(other) == (["late", "next"] if done else ["next"])
    assert (await other.get("s")).data == '["next"]'
