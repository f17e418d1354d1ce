"""Paths below a directory: nothing leads out, nothing waits, nothing runs away."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from era.workspace import beneath
from tests.workspace.overlay import opened

pytestmark = pytest.mark.usefixtures("resolver", "nothing_left_open")

LINK_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR)


ACTS: tuple[Callable[[int, str], object], ...] = (
    beneath.open_regular,
    beneath.open_dir,
    beneath.lstat,
    beneath.make_dirs,
    beneath.remove_tree,
    lambda fd, path: beneath.write_file(fd, path, b""),
    lambda fd, path: beneath.make_link(fd, path, "x"),
)


def put(path: str, content: bytes = b"") -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def read(dir_fd: int, path: str | bytes) -> bytes:
    fd = beneath.open_regular(dir_fd, path)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


@pytest.fixture
def inner(room: str) -> str:
    """A workspace with a secret beside it."""
    put(f"{room}/secret/key", b"secret")
    os.mkdir(f"{room}/inner")
    return f"{room}/inner"


def test_a_file_is_read(inner: str) -> None:
    put(f"{inner}/a/é \n\\/c", b"content")
    with opened(inner) as fd:
        assert read(fd, "a/é \n\\/c") == b"content"
        assert read(fd, "a/é \n\\/c".encode()) == b"content"
        os.close(beneath.open_dir(fd, "a/é \n\\"))
        os.close(beneath.open_dir(fd))


@pytest.mark.parametrize(
    "path",
    ["", "..", "../secret/key", "/etc/passwd", "a/../../secret/key", "a//b", "a/.", "./a", "a\0b"],
)
def test_paths_that_are_none(inner: str, path: str) -> None:
    os.mkdir(f"{inner}/a")
    with opened(inner) as fd:
        for act in ACTS:
            with pytest.raises(OSError, match=r"."):
                act(fd, path)
    assert os.listdir(os.path.dirname(inner) + "/secret") == ["key"]


BREAKS = {
    "at the end": ({"l": "../secret/key"}, "l"),
    "absolute": ({"l": "{inner}/../secret/key"}, "l"),
    "above": ({"l": "../secret"}, "l/key"),
    "two hops": ({"l": "m", "m": "../secret"}, "l/key"),
    "inside": ({"l": "file"}, "l"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_no_link_is_followed(inner: str, name: str) -> None:
    put(f"{inner}/file", b"x")
    links, path = BREAKS[name]
    for at, target in links.items():
        os.symlink(target.format(inner=inner), f"{inner}/{at}")
    with opened(inner) as fd:
        mirror = os.open(path, os.O_RDONLY, dir_fd=fd)  # without the guard it leads somewhere
        os.close(mirror)
        with pytest.raises(OSError, match=r".") as caught:
            read(fd, path)
        assert caught.value.errno in LINK_IN_THE_WAY


def test_no_magic_link_is_followed() -> None:
    with opened("/proc/self") as fd:
        os.close(os.open("cwd/.", os.O_RDONLY, dir_fd=fd))
        for path in ("cwd", "root", f"fd/{fd}", "root/etc"):
            with pytest.raises(OSError, match=r".") as caught:
                os.close(beneath.open_dir(fd, path))
            assert caught.value.errno in (*LINK_IN_THE_WAY, errno.EXDEV)


def test_no_mount_is_entered() -> None:
    with opened("/") as fd:
        for path in ("proc", "proc/sys", "sys/fs"):
            os.close(os.open(path, os.O_RDONLY, dir_fd=fd))
            with pytest.raises(OSError, match=r".") as caught:
                os.close(beneath.open_dir(fd, path))
            assert caught.value.errno == errno.EXDEV


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        make_socket,
        os.mkdir,
        lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
        lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, 0),
        lambda path: os.mknod(path, 0o666 | stat.S_IFBLK, os.makedev(7, 250)),
        lambda path: os.symlink("/dev/zero", path),
    ],
)
def test_only_regular_files_are_opened(inner: str, make: Callable[[str], None]) -> None:
    make(f"{inner}/x")
    with opened(inner) as fd, pytest.raises(OSError, match=r"."):
        read(fd, "x")


def test_lstat_looks_at_links_and_not_through_them(inner: str) -> None:
    os.symlink("../secret/key", f"{inner}/l")
    os.symlink("../secret", f"{inner}/m")
    put(f"{inner}/file")
    with opened(inner) as fd:
        found = beneath.lstat(fd, "l")
        assert found is not None
        assert stat.S_ISLNK(found.st_mode)
        for path in ("m/key", "file/x", "none", "x" * 300):
            assert beneath.lstat(fd, path) is None


def test_a_new_file_gets_what_is_asked(inner: str) -> None:
    previous = os.umask(0o077)
    try:
        with opened(inner) as fd:
            beneath.write_file(fd, "a", b"x" * 100_000, owner=1234, mode=0o4755, mtime_ns=5)
            os.close(beneath.make_dirs(fd, "d/e", owner=1234))
    finally:
        os.umask(previous)
    status = os.stat(f"{inner}/a")
    assert (status.st_uid, status.st_gid) == (1234, 1234)
    assert stat.S_IMODE(status.st_mode) == 0o755
    assert (status.st_size, status.st_mtime_ns) == (100_000, 5)
    for path in ("d", "d/e"):
        status = os.stat(f"{inner}/{path}")
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o755)


def test_directories_that_are_there_stay_as_they_are(inner: str) -> None:
    os.mkdir(f"{inner}/d", 0o700)
    with opened(inner) as fd:
        os.close(beneath.make_dirs(fd, "d/e", owner=1234, mode=0o711))
    assert stat.S_IMODE(os.stat(f"{inner}/d").st_mode) == 0o700
    assert os.stat(f"{inner}/d").st_uid == os.getuid()


@pytest.mark.parametrize("target", ["../secret/key", "../secret/new", "../secret"])
def test_nothing_is_written_through_a_link(inner: str, target: str) -> None:
    os.symlink(target, f"{inner}/l")
    with opened(inner) as fd:
        with pytest.raises(FileExistsError):
            beneath.write_file(fd, "l", b"overwritten")
        with pytest.raises(OSError, match=r"."):
            beneath.write_file(fd, "l/x", b"overwritten")
        with pytest.raises(OSError, match=r"."):
            beneath.make_dirs(fd, "l/x")
        with pytest.raises(OSError, match=r"."):
            beneath.make_link(fd, "l/x", "y")
    secret = os.path.dirname(inner) + "/secret"
    assert os.listdir(secret) == ["key"]
    assert read_plain(f"{secret}/key") == b"secret"


def read_plain(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_a_link_is_made(inner: str) -> None:
    with opened(inner) as fd:
        beneath.make_link(fd, "l", "é", owner=1234, mtime_ns=7)
    status = os.lstat(f"{inner}/l")
    assert (os.readlink(f"{inner}/l"), status.st_uid, status.st_mtime_ns) == ("é", 1234, 7)


def test_names_are_bytes(inner: str) -> None:
    names = {b"a\xff", b"new\nline", b"\x1b[31m", b"x" * 255, "é".encode()}
    for name in names:
        os.mkdir(os.fsencode(inner) + b"/" + name)
    with opened(inner) as fd:
        assert {name for name, _ in beneath.iterate(fd)} == names
        assert all(stat.S_ISDIR(status.st_mode) for _, status in beneath.iterate(fd))


# --- removing -----------------------------------------------------------------------------------


def test_removing_follows_no_link(inner: str) -> None:
    secret = os.path.dirname(inner) + "/secret"
    os.makedirs(f"{inner}/d/e")
    os.symlink(secret, f"{inner}/d/l")
    os.symlink("../../../secret", f"{inner}/d/e/m")
    os.link(f"{secret}/key", f"{inner}/d/hard")
    os.mkfifo(f"{inner}/d/e/f")
    with opened(inner) as fd:
        beneath.remove_tree(fd, "d")
        os.symlink(secret, f"{inner}/l")
        beneath.remove_tree(fd, "l")
        os.symlink(secret, f"{inner}/l")
        with suppress(OSError):
            beneath.remove_tree(fd, "l/key")
    assert os.listdir(inner) == ["l"]
    assert read_plain(f"{secret}/key") == b"secret"


def test_removing_nothing_is_fine(inner: str) -> None:
    put(f"{inner}/file")
    with opened(inner) as fd:
        for path in ("none", "none/x", "file/x", b"\xff"):
            beneath.remove_tree(fd, path)
        beneath.remove_tree(fd, "file")
    assert os.listdir(inner) == []


def test_a_wide_tree_is_removed(inner: str) -> None:
    for number in range(3_000):
        put(f"{inner}/d/{number % 40}/{number}")
    os.symlink("..", f"{inner}/d/up")
    with opened(inner) as fd:
        beneath.remove_tree(fd, "d")
    assert os.listdir(inner) == []


DIG = """
import os
for number in range({levels}):
    os.mkdir("d")
    if number % 1000 == 0:
        os.mkdir("e")
        open("f", "w").close()
    os.chdir("d")
"""


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_a_deep_tree_is_removed(inner: str, levels: int) -> None:
    subprocess.run([sys.executable, "-Ic", DIG.format(levels=levels)], cwd=inner, check=True)
    with opened(inner) as fd:
        beneath.remove_tree(fd, "d")
    assert sorted(os.listdir(inner)) == ["e", "f"]


REMOVE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from era.workspace import beneath
os.setgroups([]); os.setgid(1234); os.setuid(1234)
os.makedirs("d/a/b/c"); open("d/a/b/f", "w").close()
for path, mode in (("d/a/b/c", 0), ("d/a/b", 0o500), ("d/a", 0o444), ("d", 0)):
    os.chmod(path, mode)
beneath.remove_tree(os.open(".", os.O_RDONLY), "d")
assert os.listdir(".") == []
"""


def test_modes_do_not_keep_a_service_out_that_is_not_root(inner: str) -> None:
    os.chown(inner, 1234, 1234)
    os.chmod(os.path.dirname(inner), 0o755)
    source = os.path.dirname(os.path.dirname(os.path.dirname(beneath.__file__)))
    subprocess.run([sys.executable, "-Ic", REMOVE, source], cwd=inner, check=True)


EXCHANGE = 2


@pytest.mark.timeout(60)
def test_a_directory_that_turns_into_a_link_and_back(inner: str) -> None:
    put(f"{inner}/d/key", b"ours")
    os.symlink("../secret", f"{inner}/l")
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()

    def swap() -> None:
        one, two = f"{inner}/d".encode(), f"{inner}/l".encode()
        while not stop.is_set():
            assert libc.renameat2(-100, one, -100, two, EXCHANGE) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[object] = set()
    try:
        with opened(inner) as fd:
            for number in range(2_000):
                try:
                    seen.add(read(fd, "d/key"))
                    beneath.write_file(fd, f"d/{number}", b"x")
                except OSError as error:
                    seen.add(error.errno)
    finally:
        stop.set()
        swapper.join()
    assert seen <= {b"ours", *LINK_IN_THE_WAY, errno.EAGAIN}
    assert os.listdir(os.path.dirname(inner) + "/secret") == ["key"]


def test_a_tree_that_is_moved_while_it_is_removed_harms_nothing(
    inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going up by `..` must arrive where it came from."""
    put(f"{inner}/d/e/f/x")
    put(f"{inner}/other/f/keep")
    plain = beneath.remove_one
    moved: list[bytes] = []

    def remove_one(at: int, name: bytes) -> bool:
        if name == b"x" and not moved:
            moved.append(name)
            os.rename(f"{inner}/d/e/f", f"{inner}/other/g")
        return plain(at, name)

    monkeypatch.setattr(beneath, "remove_one", remove_one)
    with opened(inner) as fd, pytest.raises(OSError, match="moved"):
        beneath.remove_tree(fd, "d")
    assert moved
    assert os.path.exists(f"{inner}/other/f/keep")
