"""What only the keeper in an object store promises: packs, a bounded cache, several nodes, failures."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import obstore
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.errors import InternalError, NotFoundError
from era.storage.base import Blob
from era.storage.blobs.objects import UNFILLED_SECONDS, ObjectBlobs
from era.storage.blobs.packs import ALONE_BYTES, PACK_BYTES, packed, spans
from era.storage.index import Place
from era.storage.records.keeper import DatabaseRecords
from era.storage.records.postgres import PostgresRecords
from era.storage.records.sqlite import SqliteRecords
from tests.contracts.blobs import Clock, content, content_of, export, put, read
from tests.servers.objects import Objects

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Setup:
    """A place in the object store, and the index of it."""

    server: Objects
    url: str
    index: DatabaseRecords
    folder: Path
    clock: Clock

    def node(self, name: str, cache_bytes: int = 1 << 30) -> ObjectBlobs:
        return ObjectBlobs(
            self.server.store(self.url),
            self.index,
            str(self.folder / name),
            cache_bytes=cache_bytes,
            clock=self.clock,
        )

    @property
    def names(self) -> list[str]:
        return self.server.names(self.url)


@pytest.fixture(params=["sqlite", "postgres"])
async def setup(
    request: pytest.FixtureRequest, object_server: Objects, tmp_path: Path, clock: Clock
) -> AsyncIterator[Setup]:
    index: DatabaseRecords
    if request.param == "sqlite":
        index = SqliteRecords(request.getfixturevalue("database"))
    else:
        index = PostgresRecords(request.getfixturevalue("postgres_url"))
    yield Setup(object_server, object_server.new_url(), index, tmp_path, clock)
    await index.close()


@pytest.fixture
async def node(setup: Setup) -> AsyncIterator[ObjectBlobs]:
    node = setup.node("first")
    yield node
    await node.close()


@pytest.fixture
async def other(setup: Setup) -> AsyncIterator[ObjectBlobs]:
    """Another node, whose cache is empty."""
    node = setup.node("second")
    yield node
    await node.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    """Makes the descriptor of a file with these bytes."""
    with ExitStack() as stack:

        def make(data: bytes) -> int:
            path = tmp_path / hashlib.sha256(data).hexdigest()
            path.write_bytes(data)
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
            return fd

        yield make


# --- packs --------------------------------------------------------------------------------------


async def test_the_small_files_of_one_commit_are_one_object(
    setup: Setup, node: ObjectBlobs, opened: Callable[[bytes], int]
) -> None:
    small = [b"%d" % number * number for number in range(50)]
    large = content(ALONE_BYTES)
    blobs = await node.put_fds([opened(data) for data in (*small, large)])
    assert len(setup.names) == 2
    # What is known is uploaded no more.
    assert await node.put_fds([opened(data) for data in (large, *small)]) == (
        blobs[-1],
        *blobs[:-1],
    )
    assert len(setup.names) == 2


async def test_another_node_reads_and_places_what_one_has_stored(
    setup: Setup,
    node: ObjectBlobs,
    other: ObjectBlobs,
    folder: int,
    opened: Callable[[bytes], int],
) -> None:
    contents = [b"", *(b"%d" % number * 100 for number in range(40)), content(3 * ALONE_BYTES + 5)]
    blobs = await node.put_fds([opened(data) for data in contents])
    assert await read(other, blobs[7].hash) == contents[7]
    assert (
        await read(other, blobs[-1].hash, ALONE_BYTES, 2 * ALONE_BYTES)
        == (contents[-1][ALONE_BYTES : 2 * ALONE_BYTES])
    )
    await other.export(export(blob, folder, name=f"f{number}") for number, blob in enumerate(blobs))
    for number, data in enumerate(contents):
        assert content_of(folder, f"f{number}") == data
    # Now the other node has them at hand: the store may be away.
    for name in setup.names:
        obstore.delete(setup.server.store(setup.url), name)
    assert await read(other, blobs[7].hash) == contents[7]


async def test_both_nodes_storing_the_same_bytes_have_one_blob(
    node: ObjectBlobs, other: ObjectBlobs
) -> None:
    stored = await asyncio.gather(*(put((node, other)[n % 2], b"same") for n in range(10)))
    assert set(stored) == {stored[0]}
    assert [blob async for blob in node.older_than(0)] == [stored[0].hash]
    assert await read(other, stored[0].hash) == b"same"


@given(st.lists(st.integers(0, 2 * ALONE_BYTES), max_size=60))
def test_packs_are_bounded_and_lose_nothing(sizes: list[int]) -> None:
    numbers = iter(range(1000))
    blobs = [Blob(hash=f"{n:064x}", size=size) for n, size in enumerate(sizes)]
    packs = packed(blobs, lambda: f"o{next(numbers)}")
    assert sorted(blob.hash for pack in packs for blob in pack.blobs) == [b.hash for b in blobs]
    assert len({pack.object for pack in packs}) == len(packs)
    for pack in packs:
        assert len(pack.blobs) == 1 or sum(blob.size for blob in pack.blobs) <= PACK_BYTES
    places = [place for pack in packs for place in pack.places()]
    found = spans(places[::2])
    assert sorted(p.blob for span in found for p in span.places) == sorted(
        p.blob for p in places[::2]
    )
    for span in found:
        assert len(span.places) == 1 or span.end - span.start <= PACK_BYTES
        for place in span.places:
            assert span.start <= place.offset
            assert place.offset + place.size <= span.end


# --- the cache ----------------------------------------------------------------------------------


async def test_the_cache_keeps_to_its_bound_and_is_never_needed(setup: Setup, folder: int) -> None:
    node = setup.node("small", cache_bytes=ALONE_BYTES)
    contents = [bytes([number]) * (ALONE_BYTES // 4) for number in range(12)]
    blobs = []
    for data in contents:
        blobs.append(await put(node, data))
        await asyncio.sleep(0.03)
    await node.export(export(blob, folder, blob.hash) for blob in blobs)
    for blob, data in zip(blobs, contents, strict=True):
        assert content_of(folder, blob.hash) == data
        assert await read(node, blob.hash) == data
    await asyncio.sleep(0.05)  # what was used just now may still be in use
    await put(node, b"one more")
    await node.close()
    held = [p for p in (setup.folder / "small").rglob("*") if len(p.name) == 64]
    assert sum(path.stat().st_size for path in held) <= 2 * ALONE_BYTES


async def test_a_cache_of_an_earlier_boot_is_not_believed(setup: Setup) -> None:
    node = setup.node("mine")
    blob = await put(node, b"right")
    await node.close()
    (path,) = [p for p in (setup.folder / "mine").rglob("*") if p.name == blob.hash]
    path.write_bytes(b"wrong")
    node = setup.node("mine")
    assert await read(node, blob.hash) == b"wrong"  # same boot: as it was left
    await node.close()
    (setup.folder / "mine" / "boot").write_bytes(b"another")
    node = setup.node("mine")
    assert await read(node, blob.hash) == b"right"
    await node.close()


# --- sweeping -----------------------------------------------------------------------------------


async def test_an_object_goes_with_the_last_of_its_blobs(
    setup: Setup, node: ObjectBlobs, opened: Callable[[bytes], int], clock: Clock
) -> None:
    one, two, three = await node.put_fds([opened(b"one"), opened(b"two"), opened(b"three")])
    clock.ahead = 100
    assert await node.delete(one.hash, age_seconds=50)
    await node.tidy(50)
    assert len(setup.names) == 1
    assert await read(node, two.hash) == b"two"
    with pytest.raises(NotFoundError):
        await read(node, one.hash)
    assert await node.delete(two.hash, age_seconds=50)
    assert await node.delete(three.hash, age_seconds=50)
    await node.tidy(50)
    assert setup.names == []
    await node.tidy(50)


async def test_what_is_left_of_an_object_that_is_mostly_dead_moves_on(
    setup: Setup,
    node: ObjectBlobs,
    other: ObjectBlobs,
    opened: Callable[[bytes], int],
    clock: Clock,
) -> None:
    contents = [b"%d" % number * 50 for number in range(10)]
    blobs = [
        blob
        for first in (0, 5)
        for blob in await node.put_fds([opened(data) for data in contents[first : first + 5]])
    ]
    old = setup.names
    assert len(old) == 2
    clock.ahead = 100
    for number in (0, 1, 5, 6):  # two of five each: more than half is alive
        assert await node.delete(blobs[number].hash, age_seconds=50)
    await other.tidy(50)
    assert setup.names == old
    for number in (2, 7):
        assert await node.delete(blobs[number].hash, age_seconds=50)
    await other.tidy(200)  # as long as they are young, nothing moves
    assert setup.names == old
    await other.tidy(50)
    # The rests are one object; those that they were in stay for whoever is reading there.
    assert len(setup.names) == 3
    assert set(old) < set(setup.names)
    clock.ahead = 200
    await node.tidy(50)
    assert len(setup.names) == 1
    third = setup.node("third")
    for number in (3, 4, 8, 9):
        assert await read(third, blobs[number].hash) == contents[number]
        assert await node.delete(blobs[number].hash, age_seconds=50)
    await third.close()
    clock.ahead = 300
    await node.tidy(50)
    assert setup.names == []


async def test_a_blob_that_goes_while_it_is_moved_stays_gone(
    setup: Setup, node: ObjectBlobs, opened: Callable[[bytes], int], clock: Clock
) -> None:
    contents = [b"%d" % number * 50 for number in range(4)]
    blobs = await node.put_fds([opened(data) for data in contents])
    clock.ahead = 100
    now = int(clock() * 1000)
    for blob in blobs[:2]:
        assert await node.delete(blob.hash)
    (third, fourth) = await setup.index.sparse(50, "", 9, now)
    await setup.index.announce(["aa/new"], now)
    assert await node.delete(blobs[2].hash)
    moved = [
        Place(blob=place.blob, object="aa/new", offset=at, size=place.size)
        for at, place in enumerate((third, fourth))
    ]
    await setup.index.move(moved, now)
    assert await setup.index.places([blob.hash for blob in blobs]) == (moved[1],)
    assert await setup.index.sparse(50, "", 9, now) == ()
    # Whoever moves them to a place that was abandoned meanwhile has changed nothing.
    gone = Place(blob=blobs[3].hash, object="aa/other", offset=0, size=1)
    with pytest.raises(InternalError):
        await setup.index.move([gone], now)
    assert await setup.index.places([blobs[3].hash]) == (moved[1],)


async def test_a_lost_object_keeps_no_other_from_being_tidied(
    setup: Setup,
    node: ObjectBlobs,
    other: ObjectBlobs,
    opened: Callable[[bytes], int],
    clock: Clock,
) -> None:
    blobs = await node.put_fds([opened(b"%d" % number) for number in range(2)])
    (lost,) = setup.names
    alone = await put(node, b"alone")
    clock.ahead = 100
    for blob in (blobs[0], alone):
        assert await node.delete(blob.hash)
    obstore.delete(setup.server.store(setup.url), lost)
    with pytest.raises(InternalError):
        await other.tidy(50)
    assert setup.names == []


async def test_an_upload_that_broke_off_is_removed_once_it_is_old(
    setup: Setup, node: ObjectBlobs, clock: Clock
) -> None:
    await setup.index.announce(["aa/left"], int(clock() * 1000))
    obstore.put(setup.server.store(setup.url), "aa/left", b"bytes")
    kept = await put(node, b"kept")
    clock.ahead = UNFILLED_SECONDS - 10
    await node.tidy(50)
    assert "aa/left" in setup.names
    clock.ahead = UNFILLED_SECONDS + 10
    await node.tidy(50)
    assert "aa/left" not in setup.names
    assert await read(node, kept.hash) == b"kept"
    # Whoever comes back to it then has to begin again.
    with pytest.raises(InternalError):
        await setup.index.fill([Place(blob="a" * 64, object="aa/left", offset=0, size=5)])
    assert not await node.exists("a" * 64)


# --- failures -----------------------------------------------------------------------------------


async def test_lost_and_changed_objects_are_found_and_not_handed_out(
    setup: Setup, node: ObjectBlobs, other: ObjectBlobs, folder: int
) -> None:
    blob = await put(node, b"right")
    store = setup.server.store(setup.url)
    (name,) = setup.names
    for bad in (b"wrong", b"", b"wro"):
        obstore.put(store, name, bad)
        with pytest.raises(InternalError):
            await other.export([export(blob, folder)])
        assert os.listdir(folder) == []
    obstore.delete(store, name)
    with pytest.raises(InternalError):
        await read(other, blob.hash)
    obstore.put(store, name, b"right")
    await other.export([export(blob, folder)])
    assert content_of(folder) == b"right"


async def test_a_store_that_cannot_be_reached_is_an_error_that_tells_no_address(
    setup: Setup,
) -> None:
    store = obstore.store.S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        access_key_id="key",
        secret_access_key="secret-word",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    node = ObjectBlobs(store, setup.index, str(setup.folder / "away"), cache_bytes=1 << 20)
    for call in (lambda: put(node, b"data"), lambda: node.claim("x", fresh=True)):
        await refused_quietly(call)
    # The index knows nothing of what did not arrive.
    assert not await node.exists(hashlib.sha256(b"data").hexdigest())
    await node.close()


async def refused_quietly(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(InternalError) as caught:
        await call()
    said = str(caught.value.body())
    assert "secret-word" not in said
    assert "127.0.0.1" not in said


async def test_a_store_knows_whether_it_is_the_right_one(setup: Setup, node: ObjectBlobs) -> None:
    assert await node.claim("us", fresh=True)
    assert await node.claim("us", fresh=False)
    assert not await node.claim("others", fresh=False)
    elsewhere = ObjectBlobs(
        setup.server.store(setup.server.new_url()),
        setup.index,
        str(setup.folder / "elsewhere"),
        cache_bytes=0,
    )
    assert not await elsewhere.claim("us", fresh=False)
    await elsewhere.close()


# --- as an operator has it ----------------------------------------------------------------------

STREAM = """
import asyncio, hashlib, resource, sys
from era.storage.base import Export
from era.storage.blobs.objects import ObjectBlobs, open_store
from era.storage.records.sqlite import SqliteRecords

url, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
block = bytes(range(256)) * 4096

def grown():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def pieces():
    for number in range(size):
        yield block[number % 255:] + block[:number % 255]

async def main():
    index = SqliteRecords(f"{folder}/era.db")
    await index.check()
    node = ObjectBlobs(open_store(url), index, f"{folder}/cache", cache_bytes=0)
    before = grown()
    blob = await node.put(pieces())
    assert blob.size == size << 20, blob
    await asyncio.sleep(0.05)
    await node._cache.trim(0)
    digest = hashlib.sha256()
    async for chunk in node.open(blob.hash):
        digest.update(chunk)
    assert digest.hexdigest() == blob.hash
    await node.close()
    await index.close()
    print(grown() - before)

asyncio.run(main())
"""


async def test_a_large_file_streams_both_ways_in_little_memory(
    object_server: Objects, tmp_path: Path
) -> None:
    """With the settings from the environment, in a process of its own so that its growth is seen."""
    environment = {**os.environ, **object_server.environment}
    command = [sys.executable, "-c", STREAM, object_server.new_url(), str(tmp_path), "300"]
    ended = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 100


async def test_a_blob_stored_again_while_it_is_deleted_is_uploaded(
    setup: Setup, node: ObjectBlobs, other: ObjectBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"again and again"
    blob = await put(node, data)
    dropped, stored = asyncio.Event(), asyncio.Event()
    drop, announce = setup.index.drop, setup.index.announce

    async def drop_and_wait(*args: Any) -> bool:
        gone = await drop(*args)
        dropped.set()
        await stored.wait()
        return gone

    async def wait_and_announce(*args: Any) -> None:
        await announce(*args)
        stored.set()  # it is in the cache, is not known, and now the deletion goes on
        assert await deleting

    monkeypatch.setattr(setup.index, "drop", drop_and_wait)
    monkeypatch.setattr(setup.index, "announce", wait_and_announce)
    deleting = asyncio.create_task(node.delete(blob.hash))
    await dropped.wait()
    assert await put(node, data) == blob
    assert await read(other, blob.hash) == data


@pytest.mark.parametrize("meanwhile", ["moved", "dropped"])
async def test_objects_are_counted_rightly_though_two_nodes_change_them(
    postgres_url: str, meanwhile: str
) -> None:
    """One who moves the rest of an object, while another moves it as well or drops a part of it."""
    index, names = PostgresRecords(postgres_url), ["a" * 64, "b" * 64]
    places = [Place(blob=name, object="aa/old", offset=n, size=1) for n, name in enumerate(names)]
    await index.announce(["aa/old", "aa/new", "aa/other"])
    await index.fill(places)
    moved = [replace(place, object="aa/new") for place in places]
    with psycopg.connect(postgres_url) as other:
        if meanwhile == "moved":
            other.execute("UPDATE blobs SET object = 'aa/other'")
            other.execute("UPDATE objects SET filled = 2, live = 2 WHERE name = 'aa/other'")
            other.execute("UPDATE objects SET live = 0 WHERE name = 'aa/old'")
        else:
            other.execute("DELETE FROM blobs WHERE blob = %s", (names[1],))
            other.execute("UPDATE objects SET live = live - 1 WHERE name = 'aa/old'")
            moved.pop()
        moving = asyncio.create_task(index.move(moved))
        with psycopg.connect(postgres_url, autocommit=True) as watcher, anyio.fail_after(60):
            while not watcher.execute(_WAITING).fetchone():
                await anyio.sleep(0.01)
        other.commit()
        await moving
        counted = other.execute(
            "SELECT name, live, (SELECT count(*) FROM blobs WHERE object = name) FROM objects"
        ).fetchall()
    await index.close()
    assert {name: live for name, live, _ in counted} == {name: there for name, _, there in counted}
    assert {name: live for name, live, _ in counted}["aa/new"] == len(moved)


_WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
