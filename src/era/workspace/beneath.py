"""Host paths below an open directory: the only module of this room that opens one.

Everything in a workspace was made by code we do not trust, names and links included.  So a path is
always relative to a descriptor, and the kernel is told (openat2(2)) to stay below it and to follow
no symbolic link, magic link or mount on the way.  Where openat2 is missing, the path is walked one
segment at a time with O_NOFOLLOW, which keeps the same promises.

Paths are `/`-separated and relative; `str` paths are encoded as UTF-8 whatever the locale says, and
names that come out are bytes.  Errors are OSError: ELOOP or ENOTDIR for a link in the way.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_O_PATH: Final = os.O_PATH
_SYS_OPENAT2: Final = 437
"""The same on every architecture."""
_AT_FDCWD: Final = -100
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08
"""NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH (openat2(2))."""
_TRIES: Final = 16
"""openat2 gives EAGAIN when something is renamed meanwhile; boxes are dead by then, uploads not."""
_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

Path = str | bytes


class NotRegularError(OSError):
    """What is there is not a regular file."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "not a regular file")


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)


def _openat2(dir_fd: int, path: bytes, flags: int, mode: int) -> int:
    how = _OpenHow(flags, mode, _RESOLVE)
    for _ in range(_TRIES):
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@functools.cache
def kernel_resolves() -> bool:
    """Whether openat2 works here: Linux 5.6, and no filter of a container in the way."""
    try:
        os.close(_openat2(_AT_FDCWD, b".", _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0))
    except OSError:
        return False
    return True


def _walk(dir_fd: int, path: bytes, flags: int, mode: int) -> int:
    """`_openat2` by hand: each segment is opened below the last one, never through a link."""
    *parents, last = path.split(b"/")
    device = os.fstat(dir_fd).st_dev
    at = os.dup(dir_fd)
    try:
        for name in parents:
            below = os.open(name, _O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        fd = os.open(last, flags | os.O_NOFOLLOW, mode, dir_fd=at)
    finally:
        os.close(at)
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    return fd


def _raw(path: Path) -> bytes:
    raw = path.encode() if isinstance(path, str) else path
    edged = b"/" + raw + b"/"  # no split: paths are up to some hundred names deep
    if raw != b"." and (b"//" in edged or b"/./" in edged or b"/../" in edged):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if b"\0" in raw:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return raw


def _open(dir_fd: int, path: Path, flags: int, mode: int = 0) -> int:
    flags |= os.O_CLOEXEC
    if kernel_resolves():
        return _openat2(dir_fd, _raw(path), flags, mode)
    return _walk(dir_fd, _raw(path), flags, mode)


def open_dir(dir_fd: int, path: Path = b".") -> int:
    """Open a directory for reading; the caller closes it."""
    return _open(dir_fd, path, _DIR)


def open_regular(dir_fd: int, path: Path) -> int:
    """Open a regular file for reading; never waits, whatever is there.  The caller closes it.

    Raises:
        NotRegularError: something else is there that can be opened (a fifo, a directory).
        OSError: otherwise; ELOOP for a link, ENXIO for a socket.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    fd = _open(dir_fd, path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError
    return fd


def lstat(dir_fd: int, path: Path) -> os.stat_result | None:
    """What stands at `path` itself, links not followed; None when nothing can be reached there."""
    raw = _raw(path)
    try:
        if b"/" not in raw:  # one name: there is no way to it that could lead elsewhere
            return os.stat(raw, dir_fd=dir_fd, follow_symlinks=False)
        fd = _open(dir_fd, raw, _O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this is how the overlay file system marks a deleted name: a device 0:0 (overlayfs).
    No box can make one itself, since mknod of devices is refused in it."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


@contextmanager
def parent(dir_fd: int, path: Path) -> Iterator[tuple[int, bytes]]:
    """The directory that holds `path`, open, and the last name of `path`."""
    above, _, name = _raw(path).rpartition(b"/")
    fd = open_dir(dir_fd, above or b".")
    try:
        yield fd, name
    finally:
        os.close(fd)


def iterate(dir_fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """The names in an open directory and what they are, links not followed; one pass at a time."""
    with os.scandir(dir_fd) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)


def make_dirs(dir_fd: int, path: Path, *, owner: int | None = None, mode: int = 0o755) -> int:
    """Open the directory at `path`; those missing on the way are made with `owner` and `mode`.

    `owner` is uid and gid at once; None leaves the service's own.  The caller closes the result.
    """
    at, missing = _deepest(dir_fd, _raw(path))
    for name in missing:
        try:
            below = _enter_or_make(at, name, owner, mode)
        finally:
            os.close(at)
        at = below
    return at


def _deepest(dir_fd: int, raw: bytes) -> tuple[int, list[bytes]]:
    """The last directory on the way to `raw` that is there, open, and the names after it.

    Looked for from the end: mostly all but one name is there, and the kernel walks those.
    """
    missing: list[bytes] = []
    while raw:
        try:
            return open_dir(dir_fd, raw), missing[::-1]
        except FileNotFoundError:
            raw, _, name = raw.rpartition(b"/")
            missing.append(name)
    return open_dir(dir_fd), missing[::-1]


def _enter_or_make(at: int, name: bytes, owner: int | None, mode: int) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return open_dir(at, name)
    fd = open_dir(at, name)
    try:
        _give(fd, owner, mode)
    except OSError:
        os.close(fd)
        raise
    return fd


def _give(fd: int, owner: int | None, mode: int) -> None:
    """Owner first: a change of owner may clear mode bits."""
    if owner is not None:
        os.fchown(fd, owner, owner)
    os.fchmod(fd, mode & 0o777)


def write_file(
    dir_fd: int,
    path: Path,
    data: bytes,
    *,
    owner: int | None = None,
    mode: int = 0o644,
    mtime_ns: int | None = None,
) -> None:
    """Create the file at `path`, whose directory exists.

    Raises:
        FileExistsError: anything is there already, a link included; it is left alone.
    """
    fd = _open(dir_fd, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        _give(fd, owner, mode)
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(fd)


def make_link(
    dir_fd: int, path: Path, target: str, *, owner: int | None = None, mtime_ns: int | None = None
) -> None:
    """Create a symbolic link at `path`, whose directory exists.  Raises FileExistsError."""
    with parent(dir_fd, path) as (at, name):
        os.symlink(target.encode(), name, dir_fd=at)
        if owner is not None:
            os.chown(name, owner, owner, dir_fd=at, follow_symlinks=False)
        if mtime_ns is not None:
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=at, follow_symlinks=False)


def remove_tree(dir_fd: int, path: Path) -> None:
    """Remove what stands at `path`, with everything below it; nothing there is fine.

    Links are removed, never followed.  However deep the tree is, this takes two descriptors and
    no recursion: it goes down by name and up by `..`, and checks where it arrives.
    """
    with suppress(FileNotFoundError, NotADirectoryError), parent(dir_fd, path) as (at, name):
        if not remove_one(at, name):
            _remove_below(at, name)


def remove_one(at: int, name: bytes) -> bool:
    """Remove `name` of an open directory unless it is a directory that holds something; whether it
    is gone."""
    try:
        os.unlink(name, dir_fd=at)
    except (IsADirectoryError, PermissionError) as error:
        with suppress(OSError):
            os.rmdir(name, dir_fd=at)
            return True
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            raise error from None
        return False
    except FileNotFoundError:
        pass
    return True


def _remove_below(at: int, name: bytes) -> None:
    here, above = _enter(at, name), [(name, _identity(at))]
    try:
        while True:
            inner = _clear(here)
            if inner is not None:
                above.append((inner, _identity(here)))
                here = _swap(here, _enter(here, inner))
                continue
            gone, expected = above.pop()
            here = _swap(here, os.open(b"..", _DIR, dir_fd=here))
            if _identity(here) != expected:
                raise OSError(errno.ESTALE, "the directory was moved while it was being removed")
            os.rmdir(gone, dir_fd=here)
            if not above:
                return
    finally:
        os.close(here)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _clear(here: int) -> bytes | None:
    """Unlink all that can be in the open directory; the first directory that holds something.

    A file system may skip names while others are removed, so it looks until nothing is left.
    """
    while True:
        empty = True
        for name, _ in iterate(here):
            empty = False
            if not remove_one(here, name):
                return name
        if empty:
            return None


def _enter(at: int, name: bytes) -> int:
    """Open a directory that is to be emptied, after giving ourselves the right to."""
    with suppress(PermissionError):
        fd = open_dir(at, name)
        if os.geteuid() == 0 or os.fstat(fd).st_mode & 0o700 == 0o700:
            return fd
        os.close(fd)
    handle = _open(at, name, _O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # By descriptor, since chmod(2) by name follows links; fchmod(2) refuses O_PATH.
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
    return open_dir(at, name)
