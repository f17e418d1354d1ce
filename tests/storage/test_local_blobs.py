"""What only the local directory promises: no second copy, nothing half-left, privacy."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypedDict

import pytest

from era.errors import InternalError, TooLargeError, UnavailableError
from era.storage.base import Blob
from era.storage.blobs.local import LocalBlobs
from era.storage.blobs.shelf import ASIDE, DRAFTS, Draft, Shelf
from tests.contracts.blobs import (
    MIB,
    NOBODY,
    content,
    content_of,
    export,
    hash_of,
    old,
    put,
    read,
    stream,
)

pytestmark = pytest.mark.anyio
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def local(root: Path) -> AsyncIterator[LocalBlobs]:
    keeper = LocalBlobs(str(root))
    yield keeper
    await keeper.close()


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir()]


def inode(folder: int, name: str) -> int:
    return os.stat(name, dir_fd=folder).st_ino


async def put_file(local: LocalBlobs, path: Path) -> Blob:
    fd = os.open(path, os.O_RDONLY)
    try:
        (blob,) = await local.put_fds([fd])
    finally:
        os.close(fd)
    return blob


# --- links instead of copies --------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file as a run leaves it: another owner, its own mode and time."""
    path = tmp_path / "source"
    path.write_bytes(content(2 * MIB))
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    path.chmod(0o750)
    os.utime(path, ns=(5, 1_234_567_890_123_456_789))
    return path


class Looks(TypedDict):
    mode: int
    mtime_ns: int
    owner: int


def looks_of(path: Path) -> Looks:
    found = path.stat()
    return {
        "mode": stat.S_IMODE(found.st_mode),
        "mtime_ns": found.st_mtime_ns,
        "owner": found.st_uid,
    }


async def test_a_collected_file_goes_back_as_the_same_inode(
    local: LocalBlobs, source: Path, folder: int
) -> None:
    blob = await put_file(local, source)
    looks = looks_of(source)
    await local.export([export(blob, folder, "a", **looks), export(blob, folder, "b", **looks)])
    assert inode(folder, "a") == inode(folder, "b") != source.stat().st_ino
    assert looks_of(Path(f"/proc/self/fd/{folder}/a")) == looks
    assert content_of(folder, "a") == source.read_bytes()


async def test_an_uploaded_file_is_linked_too(local: LocalBlobs, folder: int) -> None:
    blob = await put(local, b"upload")
    await local.export([export(blob, folder, "a"), export(blob, folder, "b")])
    assert inode(folder, "a") == inode(folder, "b")


async def test_other_looks_are_a_copy_and_change_no_link(local: LocalBlobs, folder: int) -> None:
    blob = await put(local, content(MIB + 3))
    await local.export([export(blob, folder, "a", mode=0o644)])
    before = os.stat("a", dir_fd=folder)
    await local.export(
        [export(blob, folder, "b", mode=0o600), export(blob, folder, "c", mtime_ns=1)]
    )
    after = os.stat("a", dir_fd=folder)
    assert len({inode(folder, name) for name in "abc"}) == 3
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert content_of(folder, "b") == content_of(folder, "c") == content(MIB + 3)
    # Writing to a copy is harmless.
    with open(os.open("b", os.O_WRONLY, dir_fd=folder), "wb") as file:
        file.write(b"!")
    assert await read(local, blob.hash) == content(MIB + 3)


async def test_a_blob_nobody_links_any_more_is_dressed_anew(local: LocalBlobs, folder: int) -> None:
    blob = await put(local, b"1")
    await local.export([export(blob, folder, "a", mode=0o644)])
    first = inode(folder, "a")
    os.unlink("a", dir_fd=folder)
    await local.export([export(blob, folder, "b", mode=0o600)])
    assert inode(folder, "b") == first


async def test_exports_at_once_get_the_looks_they_asked_for(local: LocalBlobs, folder: int) -> None:
    for turn in range(10):
        blob = await put(local, f"{turn}".encode())
        modes = [0o600, 0o640, 0o644, 0o755]
        await asyncio.gather(
            *(local.export([export(blob, folder, f"{turn}-{m:o}", mode=m)]) for m in modes)
        )
        for mode in modes:
            found = os.stat(f"{turn}-{mode:o}", dir_fd=folder)
            assert stat.S_IMODE(found.st_mode) == mode


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the given size."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        path = tmp_path / f"mount{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


async def test_another_file_system_gets_copies(
    local: LocalBlobs, source: Path, mount: Callable[[str], Path]
) -> None:
    blob = await put_file(local, source)
    folder = os.open(mount("8m"), os.O_RDONLY | os.O_DIRECTORY)
    looks = looks_of(source)
    await local.export([export(blob, folder, **looks)])
    assert looks_of(Path(f"/proc/self/fd/{folder}/f")) == looks
    assert content_of(folder) == source.read_bytes()
    os.close(folder)


# --- nothing half-left --------------------------------------------------------------------------


async def test_a_full_disk_is_said_and_leaves_nothing(mount: Callable[[str], Path]) -> None:
    disk = mount("3m")
    local = LocalBlobs(str(disk / "blobs"))
    kept = await put(local, b"kept")
    with pytest.raises(UnavailableError) as caught:
        await put(local, content(5 * MIB))
    assert caught.value.code == "storage_full"
    assert await old(local, 0) == {kept.hash}
    assert (await put(local, content(MIB))).size == MIB
    await local.close()


async def test_a_batch_that_does_not_fit_leaves_no_part_of_a_file(
    mount: Callable[[str], Path], tmp_path: Path
) -> None:
    local = LocalBlobs(str(mount("3m") / "blobs"))
    fds = []
    for n in range(5):
        (tmp_path / f"{n}").write_bytes(content(MIB + n))
        fds.append(os.open(tmp_path / f"{n}", os.O_RDONLY))
    with pytest.raises(UnavailableError) as caught:
        await local.put_fds(fds)
    assert caught.value.code == "storage_full"
    for fd in fds:
        os.close(fd)
    for blob in await old(local, 0):
        assert hash_of(await read(local, blob)) == blob
    assert (await put(local, content(2 * MIB))).size == 2 * MIB
    await local.close()


async def test_a_copy_that_does_not_fit_is_taken_back(
    local: LocalBlobs, mount: Callable[[str], Path]
) -> None:
    blob = await put(local, content(3 * MIB))
    folder = os.open(mount("1m"), os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(UnavailableError) as caught:
        await local.export([export(blob, folder)])
    assert caught.value.code == "storage_full"
    assert os.listdir(folder) == []
    os.close(folder)


async def test_failures_leave_no_file_and_no_descriptor(local: LocalBlobs, root: Path) -> None:
    await put(local, b"warm up")
    descriptors, files = len(os.listdir("/proc/self/fd")), files_below(root)
    for _ in range(5):
        with pytest.raises(TooLargeError):
            await local.put(stream(content(3 * MIB)), limit=2 * MIB)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert files_below(root) == files


async def test_a_call_is_over_before_its_cancelled_caller_goes_on(
    local: LocalBlobs,
) -> None:
    release, reached = threading.Event(), threading.Event()

    def slow() -> str:
        reached.set()
        release.wait(30)
        return "done"

    task = asyncio.ensure_future(local._run(slow))
    await asyncio.to_thread(reached.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_bytes_are_flushed_before_their_name_and_the_name_before_the_answer(
    local: LocalBlobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks on as the real flushes are made: no test can cut the power."""
    name = hash_of(b"1")
    seen: list[tuple[bool, bool]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        seen.append((is_folder, (root / name[:2] / name).exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await put(local, b"1")
    new_shard, named = (True, False), (True, True)
    assert seen == [(False, False), new_shard, named]


# --- the directory ------------------------------------------------------------------------------


async def test_nobody_else_can_look_into_the_directory(root: Path) -> None:
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    local = LocalBlobs(str(root))
    await put(local, b"1")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files_below(root)] == [0o600]
    await local.close()


async def test_blobs_outlive_the_keeper(root: Path) -> None:
    first = LocalBlobs(str(root))
    blob = await put(first, content(MIB + 1))
    await first.close()
    with pytest.raises(InternalError):
        await first.exists(blob.hash)
    second = LocalBlobs(str(root))
    assert await read(second, blob.hash) == content(MIB + 1)
    await second.close()


async def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InternalError) as caught:
        LocalBlobs(str(tmp_path / "file" / "blobs"))
    assert str(tmp_path) not in str(caught.value.body())


async def test_a_lost_shard_folder_is_made_again_by_the_next_keeper(root: Path) -> None:
    first = LocalBlobs(str(root))
    blob = await put(first, b"1")
    await first.delete(blob.hash)
    await first.close()
    (root / blob.hash[:2]).rmdir()
    second = LocalBlobs(str(root))
    assert await put(second, b"1") == blob
    await second.close()


class NamedDraft(Draft):
    """A draft as on a file system that knows no files without a name."""

    __slots__ = ()

    def _open(self) -> None:
        self._name = os.path.join(self._shelf.root, ASIDE, f"{id(self)}")
        self.fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


async def test_drafts_with_names_are_published_and_removed(root: Path) -> None:
    shelf = Shelf(str(root))
    for data in (b"one", b"two", b"one"):
        draft = NamedDraft(shelf)
        draft.write(data)
        assert shelf.store(draft, b"") == Blob(hash=hash_of(data), size=3)
        draft.close()
        draft.close()
    dropped = NamedDraft(shelf)
    dropped.write(b"three")
    dropped.close()
    assert sorted(path.name for path in files_below(root)) == sorted(map(hash_of, (b"one", b"two")))


async def test_what_a_crash_left_aside_is_cleared_when_it_is_old(root: Path) -> None:
    shelf = Shelf(str(root))
    left = NamedDraft(shelf)
    left.write(b"half")
    Shelf(str(root))
    assert len(list((root / ASIDE).iterdir())) == 1
    Shelf(str(root), clock=lambda: time.time() + 7200)
    assert list((root / ASIDE).iterdir()) == []
    os.close(left.fd)


async def test_more_files_than_drafts_are_stored_with_few_descriptors(
    local: LocalBlobs, tmp_path: Path
) -> None:
    most = 0

    def watch() -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    path = tmp_path / "f"
    fds = []
    for n in range(DRAFTS + 60):
        path.write_bytes(f"{n}".encode())
        fds.append(os.open(path, os.O_RDONLY))
        path.unlink()
    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.ensure_future(local.put_fds(fds))
    while not task.done():
        await asyncio.sleep(0.001)
        watch()
    assert len(set(await task)) == DRAFTS + 60
    assert most <= before + DRAFTS + 5
    for fd in fds:
        os.close(fd)


@needs_root
async def test_a_service_without_privileges_can_still_read_its_blobs() -> None:
    """As another user, in a process of its own: modes without the right to read are not taken."""
    program = """
import asyncio, os, sys
from era.storage.blobs.local import LocalBlobs
from tests.contracts.blobs import content_of, export, put, read

# Only now: the interpreter itself may lie where others cannot read.
os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)

async def main():
    base = sys.argv[1]
    local = LocalBlobs(base + "/blobs")
    with open(base + "/f", "wb") as file:
        file.write(b"secret")
    fd = os.open(base + "/f", os.O_RDONLY)
    os.fchmod(fd, 0)
    (blob,) = await local.put_fds([fd])
    assert await read(local, blob.hash) == b"secret"
    os.mkdir(base + "/out")
    folder = os.open(base + "/out", os.O_RDONLY)
    await local.export([export(blob, folder, "a", mode=0), export(blob, folder, "b", mode=0o644)])
    assert os.stat("a", dir_fd=folder).st_mode & 0o777 == 0
    assert content_of(folder, "b") == b"secret"
    assert await read(local, blob.hash) == b"secret"
    await local.close()

asyncio.run(main())
"""
    # Not below pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory() as base:
        os.chown(base, NOBODY, NOBODY)
        subprocess.run([sys.executable, "-c", program, base], check=True)
