"""Trees: a directory that equals the manifest, at whatever revision, after whatever accident."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.errors import InternalError, UnavailableError
from era.models import FileEntry, FileKind
from era.relpath import RelPath
from era.storage.base import Blob, Blobs
from era.storage.blobs.local import LocalBlobs
from era.workspace import beneath, trees
from era.workspace.patch import IMPLIED, Patch
from era.workspace.trees import Tree, Trees
from tests.workspace.keepers import UID, Manifest, MemoryBlobs, directory, file, link
from tests.workspace.states import State, owners, state

pytestmark = pytest.mark.anyio

OWNER = 4321


def expected(manifest: dict[RelPath, FileEntry], contents: dict[str, bytes]) -> State:
    """What a tree of `manifest` looks like."""
    found: State = {}
    for path in manifest:
        for above in path.parents:
            found[above] = ["dir", "", *IMPLIED]
    for path, entry in manifest.items():
        content = entry.target or (contents[entry.blob].decode("latin-1") if entry.blob else "")
        mtime_ns = entry.mtime_ns
        if entry.kind is FileKind.DIR and (entry.mode, mtime_ns) == IMPLIED:
            mtime_ns += 1  # so that it is not taken for an implied one
        found[path] = [entry.kind.value, content, entry.mode, mtime_ns]
    return found


class Bench:
    """A manifest, its blobs and its tree."""

    def __init__(self, room: str, keeper: Blobs | None = None) -> None:
        self.room = room
        self.memory = MemoryBlobs()
        self.keeper = keeper or self.memory.as_blobs()
        self.manifest = Manifest()

    def trees(self, owner: int | None = OWNER) -> Trees:
        records = self.manifest.as_records()
        return Trees(root=f"{self.room}/trees", records=records, blobs=self.keeper, owner=owner)

    def blob(self, content: bytes) -> Blob:
        return self.memory.add(content)

    async def ensure(self) -> Tree:
        return await self.trees().ensure(self.manifest.record())

    async def checked(self) -> Tree:
        """Ensure, and compare."""
        tree = await self.ensure()
        assert tree.revision == len(self.manifest.states) - 1
        assert state(tree.path) == expected(self.manifest.now, self.memory.kept)
        assert owners(tree.path) == {(OWNER, OWNER)}
        return tree


@pytest.fixture
def bench(room: str) -> Bench:
    return Bench(room)


def some(bench: Bench) -> None:
    """A first revision with a bit of everything."""
    bench.manifest.change(
        file("a", bench.blob(b"a"), mode=0o755, mtime_ns=10**18),
        file("d/e/f", bench.blob(b"f"), mode=0),
        file("d/g", bench.blob(b"f"), mode=0o600, mtime_ns=3),
        link("d/l", "../nowhere", mtime_ns=9),
        link("up", "/workspace/d"),
        directory("empty", mode=0o700, mtime_ns=77),
        directory("d/e", mode=0o711, mtime_ns=78),
        file("new\nline\x1b é/" + "x" * 255, bench.blob(b"")),
    )


async def test_a_session_without_files(bench: Bench) -> None:
    tree = await bench.checked()
    assert tree.revision == 0
    assert os.listdir(tree.path) == []
    assert bench.manifest.asked == [0]
    await bench.checked()
    assert bench.manifest.asked == [0]


async def test_everything_is_as_stored(bench: Bench) -> None:
    some(bench)
    await bench.checked()


async def test_nothing_is_done_when_nothing_changed(bench: Bench) -> None:
    some(bench)
    tree = await bench.checked()
    before = os.stat(tree.path).st_ctime_ns
    assert await bench.ensure() == tree
    assert bench.manifest.asked == [0]
    assert os.stat(tree.path).st_ctime_ns == before


async def test_a_tree_opens_as_a_directory(bench: Bench) -> None:
    tree = await bench.ensure()
    fd = tree.open()
    assert os.fstat(fd).st_ino == os.stat(tree.path).st_ino
    os.close(fd)


Edit = Callable[[Bench], None]
EDITS: dict[str, Edit] = {
    "content": lambda b: b.manifest.change(file("a", b.blob(b"new"))),
    "mode": lambda b: b.manifest.change(file("a", b.blob(b"a"), mode=0o600, mtime_ns=10**18)),
    "time": lambda b: b.manifest.change(file("a", b.blob(b"a"), mode=0o755, mtime_ns=5)),
    "a file in a stored directory": lambda b: b.manifest.change(file("empty/x", b.blob(b"x"))),
    "a file in a deep new directory": lambda b: b.manifest.change(file("n/n/n", b.blob(b"x"))),
    "a directory's mode": lambda b: b.manifest.change(directory("d/e", mode=0o500, mtime_ns=5)),
    "an implied directory is stored": lambda b: b.manifest.change(directory("d", mode=0o700)),
    "a stored directory is implied": lambda b: b.manifest.change(removed=["d/e"]),
    "the last file of an implied directory": lambda b: b.manifest.change(
        removed=["d/e/f", "d/e", "d/g", "d/l"]
    ),
    "the last file of a stored directory": lambda b: b.manifest.change(removed=["d/e/f"]),
    "an empty directory": lambda b: b.manifest.change(removed=["empty"]),
    "a file for a directory": lambda b: b.manifest.change(
        file("d", b.blob(b"file")), removed=["d/e/f", "d/e", "d/g", "d/l"]
    ),
    "a link for a directory": lambda b: b.manifest.change(
        link("d", "empty"), removed=["d/e/f", "d/e", "d/g", "d/l"]
    ),
    "a directory for a file": lambda b: b.manifest.change(directory("a")),
    "an implied directory for a file": lambda b: b.manifest.change(
        file("a/b/c", b.blob(b"c")), removed=["a"]
    ),
    "a file for a link": lambda b: b.manifest.change(file("up", b.blob(b"x"))),
    "a link for a file": lambda b: b.manifest.change(link("a", "d")),
    "a link's target": lambda b: b.manifest.change(link("up", "empty")),
    "a file below what was a link": lambda b: b.manifest.change(
        file("up/x", b.blob(b"x")), removed=["up"]
    ),
    "everything goes": lambda b: b.manifest.change(removed=list(b.manifest.now)),
}


@pytest.mark.parametrize("name", EDITS)
async def test_edits(bench: Bench, name: str) -> None:
    some(bench)
    await bench.checked()
    EDITS[name](bench)
    await bench.checked()
    assert bench.manifest.asked == [0, 1]  # amended, not made anew


async def test_a_later_revision_than_that_of_the_record(bench: Bench) -> None:
    some(bench)
    record = bench.manifest.record()
    bench.manifest.change(removed=["a"])
    assert (await bench.trees().ensure(record)).revision == 2
    await bench.checked()


async def test_forgotten_history(bench: Bench) -> None:
    some(bench)
    await bench.checked()
    for number in range(3):
        bench.manifest.change(file("a", bench.blob(str(number).encode())))
    bench.manifest.forgotten = 3
    await bench.checked()
    assert bench.manifest.asked == [0, 1, 0]


async def test_records_that_went_back_in_time(bench: Bench) -> None:
    """As after restoring a backup: the tree is of a revision that is not there."""
    some(bench)
    bench.manifest.change(removed=["a"])
    await bench.checked()
    bench.manifest.states.pop()
    await bench.checked()


async def test_another_boot_or_owner_is_another_tree(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(bench)
    tree = await bench.checked()
    shutil.rmtree(f"{tree.path}/d")  # what a power failure may do
    monkeypatch.setattr(trees, "_boot_id", lambda: "another")
    await bench.checked()
    mine = await bench.trees(owner=None).ensure(bench.manifest.record())
    assert owners(mine.path) == {(os.getuid(), os.getgid())}
    await bench.checked()


@pytest.mark.parametrize("content", [b"", b"1", b"garbage", b"1 x 4321 1\n", b"\xff" * 1000])
async def test_a_revision_that_makes_no_sense(bench: Bench, content: bytes) -> None:
    some(bench)
    tree = await bench.checked()
    os.unlink(f"{tree.path}/a")
    with open(f"{bench.room}/trees/{UID}/revision", "wb") as stamp:
        stamp.write(content)
    await bench.checked()


async def test_cost_follows_the_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.manifest.change(
        *(file(f"d{n % 50}/{n}", bench.blob(str(n).encode())) for n in range(5_000))
    )
    await bench.checked()
    opens: list[object] = []
    plain = beneath._open

    def counted(*args: Any) -> int:
        opens.append(args)
        return plain(*args)

    monkeypatch.setattr(beneath, "_open", counted)
    bench.manifest.change(file("d7/7", bench.blob(b"new")), removed=["d8/8"])
    await bench.ensure()
    assert 0 < len(opens) < 40


# --- in the background --------------------------------------------------------------------------


async def test_what_was_followed_is_not_done_again(bench: Bench) -> None:
    some(bench)
    trees = bench.trees()
    trees.follow(bench.manifest.record())
    tree = await trees.ensure(bench.manifest.record())
    assert bench.manifest.asked == [0]
    assert state(tree.path) == expected(bench.manifest.now, bench.memory.kept)
    bench.manifest.change(removed=["a"])
    trees.follow(bench.manifest.record())
    trees.follow(bench.manifest.record())
    await trees.close()
    assert trees.revision(UID) == 2
    await bench.checked()
    assert bench.manifest.asked == [0, 1]


async def test_who_waits_for_what_is_followed_may_leave(bench: Bench) -> None:
    some(bench)
    trees = bench.trees()
    trees.follow(bench.manifest.record())
    waiting = asyncio.ensure_future(trees.ensure(bench.manifest.record()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()
    await trees.close()
    assert trees.revision(UID) == 1
    await bench.checked()
    assert bench.manifest.asked == [0]


async def test_a_tree_is_dropped_after_what_is_followed(bench: Bench) -> None:
    some(bench)
    trees = bench.trees()
    trees.follow(bench.manifest.record())
    await trees.drop(UID)
    await trees.close()
    assert os.listdir(trees.root) == []


async def test_what_cannot_be_followed_is_done_when_it_is_needed(bench: Bench) -> None:
    some(bench)
    trees = bench.trees()
    bench.memory.fail_after = 2
    trees.follow(bench.manifest.record())
    await trees.close()
    assert trees.revision(UID) is None
    with pytest.raises(InternalError):
        await trees.ensure(bench.manifest.record())
    bench.memory.fail_after = None
    await bench.checked()


# --- whatever is edited -------------------------------------------------------------------------

NAMES = ("a", "b", "a/b", "a/c", "a/b/c", "a/b/c/d", "b/x", "b/é\n", "a/b/e/f")
entries = st.one_of(
    st.builds(
        lambda path, content, mode, mtime: (path, content, mode, mtime),
        st.sampled_from(NAMES),
        st.sampled_from([b"1", b"22", None, "dir"]),
        st.sampled_from([0o644, 0o700, 0o755, 0o500, 0]),
        st.sampled_from([1, 10**18, IMPLIED[1]]),
    ),
    st.sampled_from(NAMES),
)


def edit(bench: Bench, what: Any) -> None:
    """Put an entry where `what` says, making room for it, or remove what is there."""
    now = bench.manifest.now
    path = RelPath(what if isinstance(what, str) else what[0])
    below = {other for other in now if other.startswith(path + "/")}
    if isinstance(what, str):
        bench.manifest.change(removed=below | ({path} & now.keys()))
        return
    _, content, mode, mtime_ns = what
    gone = {p for p in path.parents if p in now and now[p].kind is not FileKind.DIR}
    if content == "dir":
        bench.manifest.change(directory(path, mode=mode, mtime_ns=mtime_ns), removed=gone)
    elif content is None:
        bench.manifest.change(link(path, "a/../b", mtime_ns=mtime_ns), removed=gone | below)
    else:
        new = file(path, bench.blob(content), mode=mode, mtime_ns=mtime_ns)
        bench.manifest.change(new, removed=gone | below)


@pytest.fixture
def example_rooms(room: str) -> Callable[[], str]:
    return lambda: tempfile.mkdtemp(dir=room)


@given(steps=st.lists(st.lists(entries, min_size=1, max_size=6), min_size=1, max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_edited(example_rooms: Callable[[], str], steps: list[list[Any]]) -> None:
    bench = Bench(example_rooms())

    async def play() -> None:
        for step in steps:
            for what in step:
                edit(bench, what)
            await bench.checked()

    asyncio.run(play())
    assert bench.manifest.asked.count(0) == 1


# --- accidents ----------------------------------------------------------------------------------


class KilledError(BaseException):
    """The server ends here."""


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set after how many steps on the file system the server ends."""
    left = [10**9]

    def guarded(act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return act(*args, **named)

        return step

    for name in ("mkdir", "unlink", "rmdir", "symlink", "fchmod", "utime", "open", "write"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    return lambda steps: left.__setitem__(0, steps)


async def died(work: Awaitable[Any]) -> bool:
    """Whether the server was killed in the middle of `work`."""
    try:
        await work
    except KilledError:
        return True
    return False


async def test_a_server_killed_at_any_moment(bench: Bench, killer: Callable[[int], None]) -> None:
    moments, room = 0, bench.room
    while True:
        bench.room = tempfile.mkdtemp(dir=room)
        bench.manifest = Manifest()
        some(bench)
        await bench.checked()
        EDITS["a file for a directory"](bench)
        EDITS["a directory for a file"](bench)
        bench.manifest.change(link("new/link", "x"), file("empty/x", bench.blob(b"x")))
        killer(moments)
        killed = await died(bench.ensure())
        killer(10**9)
        await bench.checked()
        moments += 1
        if not killed:
            break
    assert moments > 20


async def test_a_server_killed_while_making_a_tree(
    bench: Bench, killer: Callable[[int], None]
) -> None:
    some(bench)
    for moments in range(0, 200, 3):
        killer(moments)
        killed = await died(bench.ensure())
        killer(10**9)
        await bench.checked()
        await bench.trees().drop(UID)
    assert not killed


async def test_a_disk_that_breaks_once_is_tried_again(bench: Bench) -> None:
    some(bench)
    await bench.checked()
    EDITS["content"](bench)
    plain, left = bench.memory.export, [1]

    async def export(items: Any) -> None:
        if left.pop() if left else 0:
            raise OSError(5, "Input/output error: /secret/path")
        await plain(items)

    bench.memory.export = export  # type: ignore[method-assign]
    await bench.checked()
    assert bench.manifest.asked == [0, 1, 0]


async def test_a_disk_that_stays_broken_and_recovers(bench: Bench) -> None:
    some(bench)
    await bench.checked()
    EDITS["content"](bench)
    bench.memory.fail_after = 0
    with pytest.raises(InternalError) as caught:
        await bench.ensure()
    assert bench.room not in str(caught.value.body())
    bench.memory.fail_after = None
    await bench.checked()


async def test_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    some(bench)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Patch, "make_dirs_and_links", full)
        with pytest.raises(UnavailableError) as caught:
            await bench.ensure()
    assert caught.value.code == "storage_full"
    await bench.checked()


async def test_missing_bytes_are_no_answer_of_404(bench: Bench) -> None:
    some(bench)
    kept = bench.memory.kept.copy()
    bench.memory.kept.clear()
    with pytest.raises(InternalError):
        await bench.ensure()
    bench.memory.kept.update(kept)
    await bench.checked()


@pytest.mark.usefixtures("nothing_left_open")
async def test_a_cancelled_caller_leaves_no_thread_at_work(bench: Bench) -> None:
    some(bench)
    for turns in range(12):
        task = asyncio.ensure_future(bench.ensure())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await bench.checked()


NOT_ROOT = """
import asyncio, os, sys
sys.path[:0] = sys.argv[1:3]
from tests.workspace.test_trees import Bench, directory, file, state
os.setgroups([]); os.setgid(1234); os.setuid(1234)

async def main():
    bench = Bench(os.getcwd())
    trees = bench.trees(owner=None)
    bench.manifest.change(
        directory("closed", mode=0o500), file("closed/a", bench.blob(b"a")),
        directory("shut", mode=0), file("shut/deep/a", bench.blob(b"a"), mode=0o400),
    )
    await trees.ensure(bench.manifest.record())
    bench.manifest.change(
        file("closed/b", bench.blob(b"b")), file("shut/deep/a", bench.blob(b"new"))
    )
    tree = await trees.ensure(bench.manifest.record())
    assert os.stat(tree.path + "/shut").st_mode & 0o777 == 0
    assert os.stat(tree.path + "/closed").st_mode & 0o777 == 0o500
    os.chmod(tree.path + "/shut", 0o700)
    for path, content in (("closed/a", "a"), ("closed/b", "b"), ("shut/deep/a", "new")):
        assert open(tree.path + "/" + path).read() == content
    await trees.drop(bench.manifest.record().uid)
    assert os.listdir("trees") == []

asyncio.run(main())
"""


def test_a_service_that_is_not_root(room: str) -> None:
    """Modes that shut it out of its own tree make it slower, and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    os.chown(room, 1234, 1234)
    here = os.path.dirname(os.path.abspath(__file__))
    repository = os.path.dirname(os.path.dirname(here))
    script = [sys.executable, "-Ic", NOT_ROOT, repository, f"{repository}/src"]
    subprocess.run(script, cwd=room, check=True)


# --- going away ---------------------------------------------------------------------------------


async def test_drop_and_what_is_there(bench: Bench) -> None:
    some(bench)
    tree = await bench.ensure()
    await bench.trees().drop(UID)
    await bench.trees().drop(UID)
    assert not os.path.exists(tree.path)
    await bench.checked()
    for name in ("1", "2", "junk", "7x"):
        os.makedirs(f"{bench.room}/trees/{name}/files/d")
    os.symlink(bench.room, f"{bench.room}/trees/link")
    assert sorted(await bench.trees().uids()) == sorted({1, 2, UID})
    assert sorted(os.listdir(f"{bench.room}/trees")) == sorted(map(str, {1, 2, UID}))
    await bench.checked()


async def test_the_root_is_for_the_service_alone(bench: Bench) -> None:
    await bench.ensure()
    assert stat.S_IMODE(os.stat(f"{bench.room}/trees").st_mode) == 0o700


# --- with the store that is used ----------------------------------------------------------------


@pytest.fixture
async def local(room: str) -> AsyncIterator[Bench]:
    blobs = LocalBlobs(f"{room}/blobs")
    yield Bench(room, blobs)
    await blobs.close()


async def test_trees_of_local_blobs(local: Bench) -> None:
    async def store(content: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        stored = await local.keeper.put(chunks())
        assert stored == local.memory.add(content)

    for content in (b"a", b"f", b"", b"new", b"x", b"c", b"file"):
        await store(content)
    for change in (some, *(EDITS[name] for name in ("content", "mode", "a file for a directory"))):
        change(local)
        await local.checked()
    await local.trees().drop(UID)
    await local.checked()
