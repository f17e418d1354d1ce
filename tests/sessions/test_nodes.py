"""Leases as a server keeps them: taken once, renewed, given back, and noticed when they are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from era.errors import NotFoundError, UnavailableError
from era.models import NewSession
from era.sessions import nodes as module
from era.sessions.nodes import Cluster, SharedNodes
from era.storage.leases import Activity, Holder, Lease, Node
from tests.fakes.records import MemoryRecords

pytestmark = pytest.mark.anyio

NEW = NewSession(id=None, language="python", allow_internet=False)
IDLE = Activity(running=False, queued=0)


class Store(MemoryRecords):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    async def take_lease(self, session_id: str, node: Node, ttl_seconds: float) -> Lease | Holder:
        self.taken += 1
        return await super().take_lease(session_id, node, ttl_seconds)


class Server(SharedNodes):
    """A server named `name`, and what it has lost."""

    def __init__(self, store: Store, name: str, ttl: float = 60.0) -> None:
        self.losses: list[tuple[str, int]] = []
        self.now: dict[int, Activity] = {}
        node = Node(name=f"{name}/1", address=f"http://{name}")
        super().__init__(
            Cluster(store=store, node=node, ttl_seconds=ttl),
            lost=lambda session_id, uid: self.losses.append((session_id, uid)),
            activity=lambda uid: self.now.get(uid, IDLE),
        )


@asynccontextmanager
async def started(*servers: Server) -> AsyncIterator[None]:
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.close()


@pytest.fixture
async def store() -> Store:
    store = Store()
    await store.create("s", NEW, 1, None)
    return store


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_requests_in_a_row_ask_the_store_once(store: Store) -> None:
    server = Server(store, "a")
    async with started(server):
        for _ in range(5):
            async with server.place("s") as address, server.hold("s") as epoch:
                assert (address, epoch) == (None, 1)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(used(server))
        assert store.taken == 1


async def used(server: Server) -> None:
    async with server.hold("s"):
        await asyncio.sleep(0)


async def test_many_first_requests_take_one_lease(store: Store) -> None:
    server = Server(store, "a")
    async with started(server):
        await asyncio.gather(*(used(server) for _ in range(9)))
    assert store.taken == 1


async def test_another_server_is_named_and_cannot_hold(store: Store) -> None:
    one, two = Server(store, "a"), Server(store, "b")
    async with started(one, two):
        async with one.hold("s"):
            async with two.place("s") as address:
                assert address == "http://a"
            with pytest.raises(UnavailableError) as caught:
                await used(two)
            assert caught.value.code == "session_busy"
            assert {holder.address for holder in (await two.elsewhere("s")).values()} == {
                "http://a"
            }
            assert not await one.elsewhere("s")
        with pytest.raises(NotFoundError):
            async with one.place("none"):
                pass
    # The first has ended: it gave back what it had.
    async with started(two):
        await used(two)


async def test_an_idle_session_is_given_back_and_one_in_use_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.05)
    await store.create("t", NEW, 1, None)
    one, two = Server(store, "a", ttl=0.4), Server(store, "b", ttl=0.4)

    async def is_free() -> bool:
        async with two.place("s") as address:
            return address is None

    async with started(one, two):
        await used(one)
        async with one.hold("t"):
            async with asyncio.timeout(20):
                while not await is_free():
                    await asyncio.sleep(0.02)
            async with two.place("t") as address:
                assert address == "http://a"
    assert one.losses == []


async def test_a_lease_that_was_lost_is_noticed_and_the_next_has_another_epoch(
    store: Store,
) -> None:
    one, two = Server(store, "a", ttl=0.4), Server(store, "b", ttl=0.4)
    uid = (await store.get("s")).uid
    async with started(one), one.hold("s") as epoch:
        assert epoch == 1
        # As if the first had stood still: its time is over, and another has come.
        await store.release_nodes("a/")
        await used(two)
        await until(lambda: one.losses)
        assert one.losses == [("s", uid)]
        await store.release_nodes("b/")
        async with one.hold("s") as again:
            assert again == 3


async def test_a_deleted_session_is_lost(store: Store) -> None:
    server = Server(store, "a", ttl=0.4)
    uid = (await store.get("s")).uid
    async with started(server), server.hold("s"):
        await store.delete("s")
        await until(lambda: server.losses)
        assert server.losses == [("s", uid)]


async def test_what_goes_on_is_told_when_it_changes(store: Store) -> None:
    one, two = Server(store, "a", ttl=0.4), Server(store, "b", ttl=0.4)
    uid = (await store.get("s")).uid
    async with started(one), one.hold("s"):
        one.now[uid] = Activity(running=True, queued=3)
        async with asyncio.timeout(20):
            while not (seen := await two.elsewhere()):
                await asyncio.sleep(0.01)
        assert (seen[uid].running, seen[uid].queued) == (True, 3)
        one.now.clear()
        async with asyncio.timeout(20):
            while await two.elsewhere():
                await asyncio.sleep(0.01)
