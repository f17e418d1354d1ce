"""What every keeper of `era.storage.base.Blobs` must do.

Functions take the fixtures `blobs` (an empty keeper whose clock is `clock`), `clock` (its `ahead`
adds seconds) and `folder` (the descriptor of an empty directory).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.errors import InternalError, NotFoundError, TooLargeError
from era.storage.base import Blob, Blobs, Export

MIB = 1024 * 1024
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17)
NOBODY = 12345


class Clock(Protocol):
    """The time in seconds, `ahead` of the real one, or standing still at `frozen`."""

    ahead: float
    frozen: float | None

    def __call__(self) -> float: ...


def content(size: int) -> bytes:
    """Bytes that are no repetition of a block."""
    return (b"".join(n.to_bytes(4, "big") for n in range(size // 4 + 1)))[:size]


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def stream(data: bytes, step: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        await asyncio.sleep(0)
        yield data[at : at + step]


async def read(blobs: Blobs, blob: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in blobs.open(blob, start, end)])


async def put(blobs: Blobs, data: bytes) -> Blob:
    return await blobs.put(stream(data))


async def old(blobs: Blobs, age: float) -> set[str]:
    return {blob async for blob in blobs.older_than(age)}


def export(
    blob: Blob,
    folder: int,
    name: str = "f",
    mode: int = 0o644,
    mtime_ns: int = 1_600_000_000_123_456_789,
    owner: int | None = None,
) -> Export:
    return Export(
        blob=blob.hash, dir_fd=folder, name=name, mode=mode, mtime_ns=mtime_ns, owner=owner
    )


def content_of(folder: int, name: str = "f") -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    with open(fd, "rb") as file:
        return file.read()


# --- storing and reading ------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_stream_is_kept_under_its_hash(blobs: Blobs, size: int) -> None:
    data = content(size)
    assert await put(blobs, data) == Blob(hash=hash_of(data), size=size)
    assert await read(blobs, hash_of(data)) == data
    assert await blobs.exists(hash_of(data))


@pytest.mark.parametrize("size", SIZES)
async def test_open_files_are_read_from_their_start(
    blobs: Blobs, size: int, tmp_path: Path
) -> None:
    data = content(size)
    (tmp_path / "source").write_bytes(data)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    os.lseek(fd, 5, os.SEEK_SET)
    assert await blobs.put_fds([fd]) == (Blob(hash=hash_of(data), size=size),)
    # Still open, and where it was.
    assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    os.close(fd)
    (tmp_path / "source").write_bytes(b"changed afterwards")
    assert await read(blobs, hash_of(data)) == data


async def test_many_open_files_keep_their_order(blobs: Blobs, tmp_path: Path) -> None:
    contents = [f"{n % 71}".encode() * (n % 5) for n in range(200)]
    fds = []
    for n, data in enumerate(contents):
        path = tmp_path / f"{n}"
        path.write_bytes(data)
        fds.append(os.open(path, os.O_RDONLY))
    stored = await blobs.put_fds(fds)
    for fd in fds:
        os.close(fd)
    assert stored == tuple(Blob(hash=hash_of(data), size=len(data)) for data in contents)
    for data in set(contents):
        assert await read(blobs, hash_of(data)) == data
    assert await blobs.put_fds([]) == ()


async def test_the_same_bytes_are_one_blob(blobs: Blobs, tmp_path: Path) -> None:
    data = content(3 * MIB)
    (tmp_path / "source").write_bytes(data)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    stored = await asyncio.gather(
        put(blobs, data), put(blobs, data), blobs.put_fds([fd, fd]), put(blobs, data)
    )
    os.close(fd)
    assert {stored[0], stored[1], stored[3], *stored[2]} == {stored[0]}
    assert await old(blobs, 0) == {stored[0].hash}
    assert await read(blobs, stored[0].hash) == data


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_the_limit_is_inclusive_and_leaves_nothing(blobs: Blobs, size: int) -> None:
    data = content(size)
    with pytest.raises(TooLargeError) as caught:
        await blobs.put(stream(data), limit=size - 1)
    assert (caught.value.code, caught.value.limit) == ("file_too_large", size - 1)
    assert await old(blobs, 0) == set()
    assert (await blobs.put(stream(data), limit=size)).size == size


async def test_an_endless_stream_is_left_at_the_limit(blobs: Blobs) -> None:
    given_out = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given_out
        while True:
            given_out += 1
            yield b"x" * 65536

    with pytest.raises(TooLargeError):
        await blobs.put(endless(), limit=MIB)
    assert given_out == 17


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_broken_stream_leaves_nothing(blobs: Blobs, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield content(size)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(broken())
    assert await old(blobs, 0) == set()
    assert not await blobs.exists(hash_of(content(size)))


async def test_a_cancelled_put_leaves_nothing(blobs: Blobs) -> None:
    begun = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield content(2 * MIB)
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(blobs.put(stalled()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await old(blobs, 0) == set()


async def test_a_missing_blob_is_not_found_on_the_first_step(blobs: Blobs) -> None:
    for name in (hash_of(b"never"), "", "..", "../../etc/passwd", "A" * 64, "é" * 64, "\0"):
        chunks = blobs.open(name)
        with pytest.raises(NotFoundError) as caught:
            await anext(chunks)
        assert caught.value.code == "file_not_found"
        assert not await blobs.exists(name)
        assert await blobs.delete(name)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, None),
        (0, 0),
        (5, 5),
        (7, 3),
        (0, 10**12),
        (1, None),
        (MIB - 1, MIB + 1),
        (2 * MIB + 100, None),
        (3 * MIB, 3 * MIB + 5),
        (10**12, None),
    ],
)
async def test_a_range_of_a_blob(blobs: Blobs, start: int, end: int | None) -> None:
    data = content(2 * MIB + 200)
    blob = await put(blobs, data)
    chunks = [chunk async for chunk in blobs.open(blob.hash, start, end)]
    assert b"".join(chunks) == data[start:end]
    assert all(0 < len(chunk) <= MIB for chunk in chunks)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(st.binary(max_size=50), max_size=6),
    start=st.integers(0, 200),
    end=st.one_of(st.none(), st.integers(0, 200)),
)
async def test_any_pieces_join_and_any_range_is_cut(
    blobs: Blobs, pieces: list[bytes], start: int, end: int | None
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    data = b"".join(pieces)
    blob = await blobs.put(chunks())
    assert blob == Blob(hash=hash_of(data), size=len(data))
    assert await read(blobs, blob.hash, start, end) == data[start:end]


async def test_a_reader_may_leave_early(blobs: Blobs) -> None:
    blob = await put(blobs, content(3 * MIB))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        chunks = blobs.open(blob.hash)
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) <= before


# --- exporting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 2 * MIB + 5])
async def test_an_exported_file_has_bytes_and_looks(blobs: Blobs, folder: int, size: int) -> None:
    blob = await put(blobs, content(size))
    looks = [
        {"mode": 0o644, "mtime_ns": 1},
        {"mode": 0o755, "mtime_ns": 1_700_000_000_000_000_000},
        {"mode": 0o400, "mtime_ns": 1},
        {"mode": 0o000, "mtime_ns": 1},
        {"mode": 0o644, "mtime_ns": 1},
    ]
    await blobs.export(export(blob, folder, name=f"f{n}", **look) for n, look in enumerate(looks))
    for n, look in enumerate(looks):
        found = os.stat(f"f{n}", dir_fd=folder)
        assert stat.S_ISREG(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == look["mode"]
        assert found.st_mtime_ns == look["mtime_ns"]
        assert (found.st_uid, found.st_size) == (os.geteuid(), size)
    assert content_of(folder, "f0") == content_of(folder, "f4") == content(size)
    assert await read(blobs, blob.hash) == content(size)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
async def test_an_exported_file_belongs_to_whom_it_should(blobs: Blobs, folder: int) -> None:
    blob = await put(blobs, b"1")
    await blobs.export([export(blob, folder, "theirs", owner=NOBODY), export(blob, folder, "ours")])
    assert os.stat("theirs", dir_fd=folder).st_uid == NOBODY
    assert os.stat("ours", dir_fd=folder).st_uid == 0
    await blobs.export([export(blob, folder, "again", owner=NOBODY)])
    assert os.stat("again", dir_fd=folder).st_uid == NOBODY
    assert os.stat("theirs", dir_fd=folder).st_uid == NOBODY
    assert os.stat("ours", dir_fd=folder).st_uid == 0


async def test_special_bits_are_never_set(blobs: Blobs, folder: int) -> None:
    blob = await put(blobs, b"1")
    await blobs.export([export(blob, folder, mode=0o6755)])
    assert stat.S_IMODE(os.stat("f", dir_fd=folder).st_mode) == 0o755


@pytest.mark.parametrize("there", ["file", "folder", "link"])
async def test_nothing_is_placed_over_something(
    blobs: Blobs, folder: int, tmp_path: Path, there: str
) -> None:
    blob = await put(blobs, b"new")
    outside = tmp_path / "outside"
    outside.write_bytes(b"old")
    if there == "file":
        with open(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
            file.write(b"old")
    elif there == "folder":
        os.mkdir("f", dir_fd=folder)
    else:
        os.symlink(outside, "f", dir_fd=folder)
    for owner in (None, NOBODY if os.geteuid() == 0 else None):
        with pytest.raises(InternalError) as caught:
            await blobs.export([export(blob, folder, owner=owner)])
        assert str(tmp_path) not in str(caught.value.body())
    assert outside.read_bytes() == b"old"
    if there == "file":
        assert content_of(folder) == b"old"


async def test_an_export_of_a_missing_blob_is_not_found(blobs: Blobs, folder: int) -> None:
    missing = Blob(hash=hash_of(b"never"), size=5)
    with pytest.raises(NotFoundError):
        await blobs.export([export(missing, folder)])
    assert os.listdir(folder) == []


async def test_removing_an_exported_file_leaves_the_blob_and_the_reverse(
    blobs: Blobs, folder: int
) -> None:
    blob = await put(blobs, b"data")
    await blobs.export([export(blob, folder, "a"), export(blob, folder, "b")])
    os.unlink("a", dir_fd=folder)
    assert await read(blobs, blob.hash) == b"data"
    await blobs.delete(blob.hash)
    assert content_of(folder, "b") == b"data"


# --- sweeping -----------------------------------------------------------------------------------


async def test_a_deleted_blob_is_gone_and_can_be_stored_again(blobs: Blobs) -> None:
    blob = await put(blobs, b"1")
    assert await blobs.delete(blob.hash)
    assert not await blobs.exists(blob.hash)
    with pytest.raises(NotFoundError):
        await read(blobs, blob.hash)
    assert await blobs.delete(blob.hash)
    assert await put(blobs, b"1") == blob
    assert await read(blobs, blob.hash) == b"1"


async def test_candidates_of_a_sweep_are_those_long_stored(blobs: Blobs, clock: Clock) -> None:
    stored = {(await put(blobs, f"{n}".encode())).hash for n in range(40)}
    assert await old(blobs, 0) == stored
    assert await old(blobs, 3600) == set()
    clock.ahead = 3700
    assert await old(blobs, 3600) == stored
    assert await old(blobs, 7200) == set()


@pytest.mark.parametrize("mtime", [0, 2**33])
async def test_the_age_is_not_the_time_of_the_file_it_came_from(
    blobs: Blobs, clock: Clock, tmp_path: Path, mtime: int
) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"1")
    os.utime(path, (mtime, mtime))
    fd = os.open(path, os.O_RDONLY)
    (blob,) = await blobs.put_fds([fd])
    os.close(fd)
    assert await old(blobs, 60) == set()
    clock.ahead = 61
    assert await old(blobs, 60) == {blob.hash}


async def test_a_sweep_spares_what_was_stored_again(blobs: Blobs, clock: Clock) -> None:
    fresh, stale = await put(blobs, b"fresh"), await put(blobs, b"stale")
    # Longer than the grain of a kernel's file times.
    await asyncio.sleep(0.05)
    between = clock()
    await asyncio.sleep(0.05)
    await put(blobs, b"fresh")
    clock.frozen = between + 3600
    assert await old(blobs, 3600) == {stale.hash}
    assert not await blobs.delete(fresh.hash, age_seconds=3600)
    assert await blobs.delete(stale.hash, age_seconds=3600)
    assert await blobs.exists(fresh.hash)
    assert not await blobs.exists(stale.hash)


async def test_a_young_blob_is_not_swept(blobs: Blobs, clock: Clock) -> None:
    blob = await put(blobs, b"1")
    assert not await blobs.delete(blob.hash, age_seconds=60)
    assert await read(blobs, blob.hash) == b"1"
    clock.ahead = 61
    assert await blobs.delete(blob.hash, age_seconds=60)
    assert not await blobs.exists(blob.hash)


async def test_storing_and_sweeping_at_once_loses_nothing_that_was_stored(blobs: Blobs) -> None:
    async def sweep() -> None:
        for blob in await old(blobs, 0):
            await blobs.delete(blob, age_seconds=3600)

    for _ in range(10):
        stored, _ = await asyncio.gather(
            asyncio.gather(*(put(blobs, f"{n}".encode()) for n in range(8))), sweep()
        )
        for blob in stored:
            assert await blobs.exists(blob.hash)
