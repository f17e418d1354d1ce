"""Run after run: what a program left is what the next one finds, through the stores in use."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from era.models import FileEntry, NewSession, SessionRecord
from era.relpath import RelPath
from era.storage.base import Blobs, Committed, Quota, Records, RunCommit
from era.storage.blobs.local import LocalBlobs
from era.storage.records.sqlite import SqliteRecords
from era.workspace import beneath
from era.workspace.collect import CollectContext, collect
from era.workspace.trees import Trees
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.records import MemoryRecords
from tests.workspace.overlay import Overlay, opened
from tests.workspace.states import state
from tests.workspace.test_overlay import ACT, PYTHON, seen

pytestmark = pytest.mark.anyio

QUOTA = Quota(total_bytes=1 << 30, count=10_000)


@dataclass
class Session:
    """A session whose runs are scripts in a real overlay over its tree."""

    records: Records
    blobs: Blobs
    trees: Trees
    room: str
    runs: int = 0

    async def record(self) -> SessionRecord:
        return await self.records.get("s")

    async def run(self, script: str, program: tuple[str, ...] = ("bash", "-euc")) -> Committed:
        """One run; what its program saw at the end is the tree of the next run."""
        tree = await self.trees.ensure(await self.record())
        self.runs += 1
        os.mkdir(f"{self.room}/{self.runs}")
        overlay = Overlay(f"{self.room}/{self.runs}").make()
        os.rmdir(overlay.tree)
        os.symlink(tree.path, overlay.tree)
        overlay.run(script, program=program)
        found = seen(overlay)
        with opened(overlay.upper) as fd:
            tree_fd = tree.open()
            context = CollectContext(tree_fd=tree_fd)
            result = await collect(fd, blobs=self.blobs, context=context)
            os.close(tree_fd)
        uid = (await self.record()).uid
        commit = RunCommit(
            uid=uid, snapshot_revision=tree.revision, finished_at_ms=5, changes=result.changes
        )
        committed = await self.records.commit_run(commit, QUOTA)
        assert committed.files_error is None
        after = await self.trees.ensure(await self.record())
        assert after.revision == committed.session.files_revision
        assert state(after.path) == found
        return committed

    async def upload(self, path: str, content: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        blob = await self.blobs.put(chunks())
        entry = FileEntry(path=RelPath(path), blob=blob.hash, size=blob.size, uploaded_at_ms=9)
        await self.records.put_file("s", entry, QUOTA, 9)


@pytest.fixture(params=["memory", "in use"])
async def session(room: str, request: pytest.FixtureRequest) -> AsyncIterator[Session]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    records: Records = MemoryRecords()
    blobs: Blobs = MemoryBlobs()
    if request.param == "in use":
        records, blobs = SqliteRecords(f"{room}/records"), LocalBlobs(f"{room}/blobs")
    await records.create("s", NewSession(id="s", language="python", allow_internet=False), 1, None)
    yield Session(records, blobs, Trees(root=f"{room}/trees", records=records, blobs=blobs), room)
    await blobs.close()
    await records.close()


async def test_runs_in_a_row(session: Session) -> None:
    await session.upload("data/in.csv", b"1,2\n")
    first = await session.run("mkdir -p out/deep; cp data/in.csv out/copy; chmod 700 out/deep")
    assert "out/copy" in first.modified
    second = await session.run("rm -r out/deep; mv out/copy out/moved; ln -s out/moved link")
    assert "out/copy" in second.deleted
    third = await session.run("rm -r data; mkdir data; echo x > data/in.csv; touch empty")
    assert "data/in.csv" in third.modified
    assert await session.run("cat data/in.csv link > /dev/null") == Committed(
        session=await session.record()
    )
    await session.run("rm -r data out link empty")
    assert (await session.record()).file_count == 0


async def test_an_upload_between_runs_and_one_during_a_run(session: Session) -> None:
    await session.run("mkdir d; echo 1 > d/a; touch -d 2001-01-01 d")
    await session.upload("d/b", b"uploaded")
    await session.run("test $(cat d/b) = uploaded; rm d/a")
    tree = await session.trees.ensure(await session.record())
    await session.upload("d/c", b"meanwhile")
    again = await session.trees.ensure(await session.record())
    assert again.revision > tree.revision
    await session.run("test $(cat d/c) = meanwhile")


@pytest.mark.timeout(200)
async def test_whatever_programs_do(session: Session) -> None:
    for number in range(12):
        seed = random.randrange(10**9)
        try:
            await session.run(ACT.format(seed=seed), program=PYTHON)
        except AssertionError as error:
            raise AssertionError(f"run {number}, seed {seed}") from error
        if number % 4 == 3:
            await session.trees.drop((await session.record()).uid)


async def test_runs_leave_no_descriptors(session: Session) -> None:
    await session.run("touch warm")
    await asyncio.sleep(0)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        await session.run(f"touch n{number}; rm -f n{number - 1}; mkdir d{number}")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_tree_is_never_changed_by_a_run(session: Session) -> None:
    """Its files may be the blobs themselves: nothing may be written in place."""
    await session.run("echo old > a; chmod 600 a; mkdir d; echo old > d/b")
    tree = await session.trees.ensure(await session.record())
    fd = os.open(f"{tree.path}/a", os.O_RDONLY)
    with opened(tree.path) as top:
        before = beneath.lstat(top, "a")
    await session.run("echo new >> a; chmod 644 a; rm d/b")
    assert os.pread(fd, 100, 0) == b"old\n"
    assert before is not None
    assert os.fstat(fd).st_mode == before.st_mode
    os.close(fd)
