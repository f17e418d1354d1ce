"""Collecting from uppers made by hand: every rule, and whatever a program may leave there."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from era.errors import EraError, InternalError
from era.models import Changes, FileEntry, FileKind
from era.workspace import beneath
from era.workspace.collect import CollectContext, CollectResult, collect
from era.workspace.rules import SECRET_NAMES, is_secret, leads_outside
from tests.workspace.keepers import MemoryBlobs
from tests.workspace.overlay import opened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_open")]


def put(path: str, content: bytes = b"") -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


class Upper:
    """An upper with the tree and the layer below it."""

    def __init__(self, room: str) -> None:
        self.upper, self.tree, self.layer = f"{room}/upper", f"{room}/tree", f"{room}/layer"
        self.blobs = MemoryBlobs()
        for path in (self.upper, self.tree, self.layer):
            os.mkdir(path)

    def path(self, name: str | bytes) -> bytes:
        return os.fsencode(self.upper) + b"/" + os.fsencode(name)

    def put(self, name: str | bytes, content: bytes = b"") -> bytes:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    async def result(self, **context: Any) -> CollectResult:
        with opened(self.upper) as fd, opened(self.tree) as tree, opened(self.layer) as layer:
            options = {"tree_fd": tree, "layer_fd": layer} | context
            return await collect(fd, blobs=self.blobs.as_blobs(), context=CollectContext(**options))

    async def changes(self, **context: Any) -> Changes:
        result = await self.result(**context)
        assert result.error is None
        return result.changes

    async def written(self) -> dict[str, FileEntry]:
        changes = await self.changes()
        assert not changes.removed
        assert not changes.skipped
        return {entry.path: entry for entry in changes.written}


@pytest.fixture
def upper(room: str) -> Upper:
    return Upper(room)


def skipped(changes: Changes) -> set[tuple[str, str]]:
    return {(entry.path, entry.reason) for entry in changes.skipped}


async def test_nothing_is_no_change(upper: Upper) -> None:
    assert await upper.changes() == Changes()


async def test_files_keep_bytes_mode_and_time(upper: Upper) -> None:
    for number, mode in enumerate((0o644, 0o4755, 0o2000, 0o1777, 0)):
        path = upper.put(f"f{number}", bytes([number]) * number)
        os.chmod(path, mode)
        os.utime(path, ns=(0, 10**18 + number))
    written = await upper.written()
    assert [entry.mode for entry in written.values()] == [0o644, 0o755, 0, 0o777, 0]
    for number, entry in enumerate(written.values()):
        assert entry.kind is FileKind.FILE
        assert (entry.size, entry.mtime_ns) == (number, 10**18 + number)
        assert entry.blob is not None
        assert upper.blobs.kept[entry.blob] == bytes([number]) * number


async def test_directories_keep_mode_and_time(upper: Upper) -> None:
    os.makedirs(upper.path("a/b"))
    os.chmod(upper.path("a/b"), 0o1700)
    os.utime(upper.path("a/b"), ns=(0, 5))
    written = await upper.written()
    assert list(written) == ["a", "a/b"]
    entry = written["a/b"]
    assert (entry.kind, entry.mode, entry.mtime_ns, entry.size, entry.blob) == (
        FileKind.DIR,
        0o700,
        5,
        0,
        None,
    )


async def test_a_directory_above_a_change_is_written_when_it_looks_different(upper: Upper) -> None:
    for top in (upper.tree, upper.upper):
        os.makedirs(f"{top}/same")
        os.makedirs(f"{top}/mode")
        os.makedirs(f"{top}/time")
        for name in ("same", "mode", "time"):
            put(f"{top}/{name}/f", top.encode())
            os.utime(f"{top}/{name}", ns=(0, 7))
    os.chmod(upper.path("mode"), 0o700)
    os.utime(upper.path("time"), ns=(0, 8))
    assert list(await upper.written()) == ["mode", "mode/f", "same/f", "time", "time/f"]


async def test_hard_links_are_files_of_their_own_and_read_once(upper: Upper) -> None:
    path = upper.put("a", b"x" * 1000)
    for number in range(50):
        os.link(path, upper.path(f"b{number}"))
    written = await upper.written()
    assert len(written) == 51
    assert {entry.size for entry in written.values()} == {1000}
    assert upper.blobs.reads == 1


async def test_whiteouts_are_deletions_of_what_was_there(upper: Upper) -> None:
    put(f"{upper.tree}/gone", b"x")
    put(f"{upper.tree}/dir/inner/f")
    put(f"{upper.tree}/.env")
    put(f"{upper.tree}/x.pyc")
    put(f"{upper.layer}/layers")
    for name in ("gone", "dir", ".env", "x.pyc", "layers", "never"):
        os.mknod(upper.path(name), stat.S_IFCHR, 0)
    changes = await upper.changes()
    assert changes == Changes(removed=(".env", "dir", "gone", "x.pyc"))  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["trusted", "user"])
async def test_forms_of_the_overlay_in_attributes(upper: Upper, prefix: str) -> None:
    for name in ("opaque", "mixed", "below"):
        put(f"{upper.tree}/{name}/old")
        os.mkdir(upper.path(name))
        os.utime(upper.path(name), ns=(0, 1))
        os.utime(f"{upper.tree}/{name}", ns=(0, 1))
    put(f"{upper.tree}/gone")
    os.setxattr(upper.path("opaque"), f"{prefix}.overlay.opaque", b"y")
    os.setxattr(upper.path("mixed"), f"{prefix}.overlay.opaque", b"x")
    os.setxattr(upper.path("below"), f"{prefix}.overlay.impure", b"y")
    os.setxattr(upper.put("gone"), f"{prefix}.overlay.whiteout", b"")
    os.setxattr(upper.put("full", b"x"), f"{prefix}.overlay.whiteout", b"")
    upper.put("opaque/new")
    os.utime(upper.path("opaque"), ns=(0, 1))
    changes = await upper.changes(xattr_prefix=prefix)
    assert changes.removed == ("gone", "opaque")
    assert [entry.path for entry in changes.written] == ["full", "opaque", "opaque/new"]
    other = {"trusted": "user", "user": "trusted"}[prefix]
    changes = await upper.changes(xattr_prefix=other)
    assert changes.removed == ()
    assert [entry.path for entry in changes.written] == ["full", "gone", "opaque/new"]


@pytest.mark.parametrize(("name", "on"), [("redirect", "dir"), ("metacopy", "file")])
async def test_a_form_that_names_bytes_elsewhere_is_refused(
    upper: Upper, name: str, on: str
) -> None:
    os.mkdir(upper.path("dir"))
    upper.put("file", b"x")
    os.setxattr(upper.path(on), f"trusted.overlay.{name}", b"/other")
    with pytest.raises(InternalError):
        await upper.changes()


async def test_a_directory_that_became_something_else_is_removed_with_all_below(
    upper: Upper,
) -> None:
    for name in ("file", "link", "fifo"):
        put(f"{upper.tree}/{name}/below")
    put(f"{upper.tree}/plain")
    upper.put("file")
    upper.put("plain")
    os.symlink("x", upper.path("link"))
    os.mkfifo(upper.path("fifo"))
    changes = await upper.changes()
    assert changes.removed == ("file", "link")
    assert [entry.path for entry in changes.written] == ["file", "link", "plain"]
    assert skipped(changes) == {("fifo", "special_file")}


async def test_a_file_that_became_a_directory(upper: Upper) -> None:
    put(f"{upper.tree}/a")
    upper.put("a/b")
    assert list(await upper.written()) == ["a", "a/b"]


# --- what is not kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SECRET_NAMES, ".ENV", "Credentials.JSON", ".AWS/credentials"])
async def test_secret_names_are_skipped_at_any_depth(upper: Upper, name: str) -> None:
    upper.put(name, b"secret")
    upper.put(f"a/b/{name}", b"secret")
    upper.put(f"a/x{name}", b"public")
    changes = await upper.changes()
    assert skipped(changes) == {(name, "secret_name"), (f"a/b/{name}", "secret_name")}
    files = [entry.path for entry in changes.written if entry.kind is FileKind.FILE]
    assert files == [f"a/x{name}"]
    assert set(upper.blobs.kept.values()) == {b"public"}


def test_names_that_only_look_secret() -> None:
    for path in (".env/bin/python", "credentials", "aws/credentials", "id_rsa", ".env.test", "env"):
        assert not is_secret(path)
    assert is_secret(".env/.env")


async def test_a_link_of_a_secret_name_is_skipped(upper: Upper) -> None:
    os.symlink("x", upper.path(".env"))
    assert skipped(await upper.changes()) == {(".env", "secret_name")}


def make_socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        make_socket,
        lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
        lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7)),
        lambda path: os.mknod(path, 0o666 | stat.S_IFBLK, os.makedev(7, 250)),
    ],
)
async def test_special_files_are_skipped(upper: Upper, make: Callable[[bytes], None]) -> None:
    os.mkdir(upper.path("d"))
    make(upper.path("s"))
    make(upper.path("d/s"))
    changes = await upper.changes()
    assert skipped(changes) == {("s", "special_file"), ("d/s", "special_file")}
    assert upper.blobs.reads == 0


ODD = ["new\nline", "\x1b[31m", " ", "x" * 255, "é\u202e", "a%2e", "back\\slash", "#?", "\x01"]


@pytest.mark.parametrize("name", ODD)
async def test_odd_names_are_names(upper: Upper, name: str) -> None:
    upper.put(f"{name}/{name}", b"x")
    assert list(await upper.written()) == [name, f"{name}/{name}"]


BAD = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xae"]


@pytest.mark.parametrize("name", BAD)
async def test_names_that_are_not_utf8_are_skipped(upper: Upper, name: bytes) -> None:
    upper.put(name, b"x")
    upper.put(b"d" + name + b"/f", b"x")
    os.symlink(name, upper.path("l"))
    os.mknod(upper.path(b"w" + name), stat.S_IFCHR, 0)
    shown = name.decode("utf-8", "replace")
    changes = await upper.changes()
    assert skipped(changes) == {(shown, "bad_name"), ("d" + shown, "bad_name"), ("l", "bad_name")}
    assert not changes.written
    assert not changes.removed
    assert upper.blobs.reads == 0


async def test_paths_have_1024_bytes_at_most(upper: Upper) -> None:
    above = "/".join(["d" * 199] * 5)  # 999 bytes
    upper.put(f"{above}/{'x' * 24}")
    upper.put(f"{above}/{'y' * 25}")
    upper.put(f"{above}/{'z' * 25}/deeper/file")
    changes = await upper.changes()
    assert skipped(changes) == {(f"{above}/{name * 25}", "bad_name") for name in "yz"}
    assert [entry.path for entry in changes.written][-1] == f"{above}/{'x' * 24}"


INSIDE = [
    "x",
    "./x",
    "a/../x",
    "/workspace",
    "/workspace/x",
    "//workspace//x",
    "/workspace/a/../x",
    ".",
]
OUTSIDE = [
    "..",
    "../x",
    "a/../../x",
    "/",
    "/etc/passwd",
    "/workspace2",
    "/workspaces/../workspace/x",
    "/workspace/..",
    "/workspace/a/../../etc",
    "/../workspace",
    "/proc/self/environ",
    "/proc/1/root",
    "a/../../workspace/x",
    "../workspace/x",
]


@pytest.mark.parametrize("target", INSIDE)
async def test_links_inside_are_kept_as_they_are(upper: Upper, target: str) -> None:
    os.symlink(target, upper.path("l"))
    os.utime(upper.path("l"), ns=(0, 3), follow_symlinks=False)
    entry = (await upper.written())["l"]
    assert (entry.kind, entry.target, entry.mtime_ns) == (FileKind.LINK, target, 3)
    assert (entry.size, entry.blob) == (0, None)


@pytest.mark.parametrize("target", OUTSIDE)
async def test_links_outside_are_skipped(upper: Upper, target: str) -> None:
    os.symlink(target, upper.path("l"))
    assert skipped(await upper.changes()) == {("l", "outside_link")}


def test_how_far_a_link_may_climb_follows_from_where_it_is() -> None:
    assert not leads_outside("a/b/l", "../../x")
    assert leads_outside("a/b/l", "../../../x")
    assert leads_outside("a/b/l", "../../../workspace/x")


async def test_links_are_never_followed(upper: Upper, room: str) -> None:
    put(f"{room}/outside/secret", b"secret")
    os.symlink(f"{room}/outside", upper.path("d"))
    os.symlink(f"{room}/outside/secret", upper.path("f"))
    os.symlink("d/secret", upper.path("g"))
    changes = await upper.changes()
    assert [entry.path for entry in changes.written] == ["g"]
    assert upper.blobs.kept == {}


async def test_what_is_dropped_in_silence(upper: Upper) -> None:
    for name in (
        ".session_data.json",
        ".era/x",
        ".era_main.py",
        "__pycache__/x",
        "a/__pycache__/deep/x",
        "x.pyc",
        "a/x.pyc",
    ):
        upper.put(name, b"x")
    os.symlink("/etc/passwd", upper.path("y.pyc"))
    for name in ("b/.session_data.json", "b/.era/x", "b/.era_main.py", "b/x.pyc2"):
        upper.put(name, b"kept")
    changes = await upper.changes(own_names=frozenset({".era_main.py"}))
    files = [entry.path for entry in changes.written if entry.kind is FileKind.FILE]
    assert files == ["b/.era/x", "b/.era_main.py", "b/.session_data.json", "b/x.pyc2"]
    assert not changes.skipped
    assert not changes.removed


async def test_a_data_file_that_became_a_directory_or_was_deleted(upper: Upper) -> None:
    upper.put(".session_data.json/x")
    os.mknod(upper.path(".era_main.py"), stat.S_IFCHR, 0)
    assert await upper.changes(own_names=frozenset({".era_main.py"})) == Changes()


async def test_importing_a_module_changes_no_directory(upper: Upper) -> None:
    for name in ("pkg", "both"):
        put(f"{upper.tree}/{name}/m.py")
        os.utime(f"{upper.tree}/{name}", ns=(0, 1))
        upper.put(f"{name}/__pycache__/m.pyc")
    upper.put("both/new")
    assert list(await upper.written()) == ["both", "both/new"]


async def test_files_of_the_layer_are_not_the_sessions(upper: Upper) -> None:
    put(f"{upper.layer}/build/layers", b"old")
    put(f"{upper.layer}/build/both", b"old")
    os.symlink("x", f"{upper.layer}/build/link")
    put(f"{upper.tree}/build/both", b"old")
    os.utime(f"{upper.tree}/build", ns=(0, 1))
    for name in ("layers", "both", "link", "new"):
        upper.put(f"build/{name}", b"new")
    upper.put("layered")
    os.mkdir(f"{upper.layer}/layered")
    written = await upper.written()
    assert list(written) == ["build", "build/both", "build/new", "layered"]


async def test_directories_of_the_layer_are_implied(upper: Upper) -> None:
    os.makedirs(f"{upper.layer}/build/deep")
    upper.put("build/deep/new")
    assert list(await upper.written()) == ["build/deep/new"]
    put(f"{upper.layer}/was_file")
    upper.put("was_file/new")
    assert list(await upper.written()) == ["build/deep/new", "was_file", "was_file/new"]


async def test_links_in_the_layer_and_the_tree_are_not_followed(upper: Upper, room: str) -> None:
    put(f"{room}/outside/f")
    os.symlink(f"{room}/outside", f"{upper.layer}/d")
    upper.put("d/f", b"the session's")
    assert "d/f" in await upper.written()
    os.symlink(f"{room}/outside", f"{upper.tree}/e")
    os.mkdir(upper.path("e"))
    os.mknod(upper.path("e/f"), stat.S_IFCHR, 0)
    assert (await upper.changes()).removed == ()


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
async def test_a_sparse_file_is_not_read(upper: Upper) -> None:
    upper.put("small", b"x")
    os.truncate(upper.put("big"), 1 << 50)
    for bound in (0, 1 << 40):
        result = await upper.result(max_bytes=bound)
        assert result == CollectResult(changes=Changes(), error="quota_exceeded")
    assert upper.blobs.reads == 0


async def test_the_bound_of_bytes_is_inclusive_and_counts_each_name(upper: Upper) -> None:
    os.link(upper.put("a", b"x" * 50), upper.path("b"))
    upper.put(".env", b"x" * 1000)
    assert (await upper.result(max_bytes=100)).error is None
    result = await upper.result(max_bytes=99)
    assert result.error == "quota_exceeded"
    assert result.changes.written == ()


async def test_the_bound_of_entries(upper: Upper) -> None:
    for number in range(300):
        upper.put(f"d{number % 3}/{number}")
    assert (await upper.result(max_entries=303)).error is None
    assert (await upper.result(max_entries=302)).error == "quota_exceeded"


async def test_what_is_skipped_is_bounded(upper: Upper) -> None:
    for number in range(500):
        os.mkfifo(upper.path(f"f{number}"))
    upper.put("kept")
    changes = await upper.changes()
    assert len(changes.skipped) == 100
    assert [entry.path for entry in changes.written] == ["kept"]


async def test_thousands_of_files_with_few_open_at_once(upper: Upper) -> None:
    for number in range(5_000):
        upper.put(f"d{number % 7}/{number}", str(number).encode())
    written = await upper.written()
    assert len(written) == 5_007
    assert upper.blobs.most_open <= 64
    for path, entry in written.items():
        if entry.blob is not None:
            assert upper.blobs.kept[entry.blob].decode() == path.rpartition("/")[2]


DIG = """
import os
for number in range({levels}):
    os.mkdir("d")
    os.chdir("d")
open("f", "w").close()
"""


@pytest.mark.timeout(60)
async def test_deep_directories(upper: Upper) -> None:
    """Nothing recurses, and the bound of a path is the bound of the descent."""
    code = DIG.format(levels=100_000)
    subprocess.run([sys.executable, "-Ic", code], cwd=upper.upper, check=True)
    changes = await upper.changes()
    assert len(changes.written) == 512
    assert skipped(changes) == {("/".join(["d"] * 513), "bad_name")}


async def test_unreadable_is_reported(upper: Upper, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is: so the refusal is made here, where the kernel's would come from."""
    upper.put("closed/f")
    upper.put("f")
    upper.put("g", b"kept")
    plain = beneath._open

    def refuse(dir_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
        if path in ("f", b"closed") and not flags & os.O_PATH:
            raise PermissionError(13, "refused")
        return plain(dir_fd, path, flags, mode)

    monkeypatch.setattr(beneath, "_open", refuse)
    changes = await upper.changes()
    assert skipped(changes) == {("f", "unreadable"), ("closed", "unreadable")}
    assert [entry.path for entry in changes.written] == ["g"]


NOT_ROOT = """
import asyncio, concurrent.futures.thread, os, stat, sys
sys.path[:0] = sys.argv[1:3]
from tests.workspace.test_collect import Upper, put, skipped
upper = Upper(os.getcwd())
put(upper.tree + "/shut/x"); put(upper.tree + "/shut/d/y"); put(upper.tree + "/shut/z")
upper.put("shut/z", b"new"); upper.put("shut/d", b"file")
os.mknod(upper.path("shut/x"), stat.S_IFCHR, 0)
for name, mode in (("locked", 0), ("names", 0o444)):
    os.chmod(os.path.dirname(upper.put(name + "/f")), mode)
os.chmod(upper.put("f"), 0)
os.chmod(upper.tree + "/shut", 0)
for above, dirs, files in os.walk("."):
    for name in dirs + files:
        os.chown(os.path.join(above, name), 1234, 1234)
os.setgroups([]); os.setgid(1234); os.setuid(1234)
changes = asyncio.run(upper.changes())
assert skipped(changes) == {(n, "unreadable") for n in ("locked", "names", "f")}, changes
assert changes.removed == ("shut/d", "shut/x", "shut/z"), changes
assert [entry.path for entry in changes.written] == ["shut", "shut/d", "shut/z"], changes
"""


def test_a_service_that_is_not_root(room: str) -> None:
    """What it cannot compare it takes as changed; what it cannot read it says."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    os.chmod(room, 0o755)
    here = os.path.dirname(os.path.abspath(__file__))
    repository = os.path.dirname(os.path.dirname(here))
    script = [sys.executable, "-Ic", NOT_ROOT, repository, f"{repository}/src"]
    subprocess.run(script, cwd=room, check=True)


async def test_no_descriptors_left_is_no_lost_file(
    upper: Upper, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper.put("f")
    plain = beneath.open_regular

    def exhausted(dir_fd: int, path: str | bytes) -> int:
        os.close(plain(dir_fd, path))
        raise OSError(24, f"Too many open files: {upper.upper}")

    monkeypatch.setattr(beneath, "open_regular", exhausted)
    with pytest.raises(EraError) as caught:
        await upper.changes()
    assert upper.upper not in str(caught.value.body())
