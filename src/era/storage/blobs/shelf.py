"""A directory of blobs: `<root>/<first two digits>/<hash>`.  Blocking; called on threads.

A blob is written to a file without a name, flushed, and only then linked to its name, so a name
always stands for all of the bytes, and a crash leaves nothing behind (open(2), O_TMPFILE).

The change time of a blob's inode says when it was last stored.  It is the only time that nothing
but the kernel sets: the modification time is that of the workspace file the blob came from, so that
the blob itself can be linked into workspaces as that file.  Linking and unlinking move the change
time too, which only ever makes a blob look younger.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from era.errors import EraError, InternalError, NotFoundError, UnavailableError, file_not_found
from era.ids import new_token
from era.storage.base import Blob, Export

BLOCK: Final = 1024 * 1024
"""Bytes moved at a time; what is no longer is hashed before anything is written."""
DRAFTS: Final = 128
"""Files flushed together: bounds open descriptors, yet a run's few changes share the flushes."""
ASIDE: Final = "aside"
"""Folder of named drafts, used where files without a name cannot be."""
_STALE_SECONDS: Final = 3600.0
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FICLONE: Final = 0x40049409
"""ioctl_ficlone(2): share the blocks of another file, copied when either changes."""
_NO_LINK: Final = {errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}


def translated(error: OSError) -> EraError:
    """What a failing system call is to the callers of `Blobs`."""
    if error.errno in _NO_SPACE:
        return UnavailableError("storage_full")
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return InternalError(text=f"the store of blobs failed ({name})")


class Draft:
    """Bytes on their way to become a blob.  Closing an unpublished draft drops them."""

    __slots__ = ("_digest", "_name", "_shelf", "fd", "size")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf: Final = shelf
        self._digest: Final = hashlib.sha256()
        self._name: str | None = None
        self.fd = -1
        self.size = 0

    @property
    def hash(self) -> str:
        """The hash of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        if self.fd < 0:
            self._open()
        self._digest.update(data)
        self.size += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(self._shelf.root, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            # What a file system without O_TMPFILE answers, by its age.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            name = os.path.join(self._shelf.root, ASIDE, new_token())
            self.fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self._name = name

    def link(self, path: str) -> None:
        """Give the draft the name `path`; raises FileExistsError when it is taken."""
        if self._name is not None:
            os.link(self._name, path)
        else:
            # `src_dir_fd` is not used with an absolute source; it makes Python call linkat(2),
            # which alone can follow the link in /proc to a file without a name.
            os.link(f"/proc/self/fd/{self.fd}", path, src_dir_fd=self.fd, follow_symlinks=True)

    def close(self) -> None:
        """Let go of the draft.  A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._name is not None:
            os.unlink(self._name)
            self._name = None


class Shelf:
    """The directory `root`, which is made private to the service: what lies in it has the owner
    and the mode of workspace files.  Not `durable`: nothing waits for the disk.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(
        self, root: str, clock: Callable[[], float] = time.time, *, durable: bool = True
    ) -> None:
        self.root: Final = os.path.abspath(root)
        self._clock: Final = clock
        self._durable: Final = durable
        # Held while a blob is looked at and then touched, linked or removed: so a sweep never
        # takes what was just stored again, and two exports never change one inode at once.
        self._lock: Final = threading.Lock()
        self._shards: Final[set[str]] = set()
        self._unsettled: Final[set[str]] = set()
        self._pins: Counter[str] = Counter()
        os.makedirs(os.path.join(self.root, ASIDE), mode=0o700, exist_ok=True)
        os.chmod(self.root, 0o700)
        self._clear_aside()

    def _clear_aside(self) -> None:
        """Drop what a crash left; young drafts may be those of another process."""
        with os.scandir(os.path.join(self.root, ASIDE)) as found:
            for item in found:
                if self._clock() - item.stat(follow_symlinks=False).st_ctime > _STALE_SECONDS:
                    os.unlink(item.path)

    def path(self, blob: str) -> str:
        """Where `blob` is, or would be.  Raises NotFoundError for what cannot be a hash."""
        if _HASH.fullmatch(blob) is None:
            raise file_not_found()
        return os.path.join(self.root, blob[:2], blob)

    # -- storing --

    def store(self, draft: Draft, tail: bytes) -> Blob:
        """Publish `draft` followed by `tail`, the whole of it when nothing was written yet."""
        if draft.fd < 0:
            known = self._known(tail)
            if known is not None:
                return known
        draft.write(tail)
        self._publish([draft])
        return Blob(hash=draft.hash, size=draft.size)

    def store_files(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        """Store the contents of open files; a new blob takes over owner, mode and times."""
        blobs: list[Blob] = []
        left = iter(fds)
        more = True
        while more:
            drafts: list[Draft] = []
            try:
                some = [self._draft_of(fd, drafts) for fd in islice(left, DRAFTS)]
                self._publish(drafts)
            finally:
                for draft in drafts:
                    draft.close()
            blobs += some
            more = len(some) == DRAFTS
        return tuple(blobs)

    def _draft_of(self, fd: int, drafts: list[Draft]) -> Blob:
        """Read `fd` to its end into a new one of `drafts`, or into none when it is known."""
        data = _read_block(fd, 0)
        if len(data) < BLOCK and (known := self._known(data)) is not None:
            return known
        draft = Draft(self)
        drafts.append(draft)
        draft.write(data)
        while len(data) == BLOCK:
            data = _read_block(fd, draft.size)
            draft.write(data)
        _take_over(draft.fd, os.fstat(fd))
        return Blob(hash=draft.hash, size=draft.size)

    def _known(self, data: bytes) -> Blob | None:
        blob = hashlib.sha256(data).hexdigest()
        return Blob(hash=blob, size=len(data)) if self._touch(blob) else None

    def _touch(self, blob: str) -> bool:
        """Note that `blob` is stored again; whether it was there, and durable."""
        path = self.path(blob)
        with self._lock:
            if blob in self._unsettled:
                return False
            try:
                _renew(path)
            except FileNotFoundError:
                return False
        return True

    def _publish(self, drafts: Iterable[Draft]) -> None:
        """Make drafts blobs, durably: first their bytes, then their names."""
        # What is shorter was looked for just now, before it was written.
        fresh = [d for d in drafts if d.size < BLOCK or not self._touch(d.hash)]
        for draft in fresh if self._durable else ():
            os.fsync(draft.fd)
        shards = {draft.hash[:2] for draft in fresh}
        self._make_shards(shards)
        names = {draft.hash for draft in fresh}
        try:
            for draft in fresh:
                self._name(draft)
            for shard in shards if self._durable else ():
                _flush(os.path.join(self.root, shard))
        finally:
            with self._lock:
                self._unsettled.difference_update(names)

    def _name(self, draft: Draft) -> None:
        path = self.path(draft.hash)
        with self._lock:
            # Until its folder is flushed another writer of the same bytes must flush it as well.
            self._unsettled.add(draft.hash)
            try:
                draft.link(path)
            except FileExistsError:
                _renew(path)

    def _make_shards(self, names: set[str]) -> None:
        missing = names - self._shards
        for name in missing:
            os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
        if missing:
            if self._durable:
                _flush(self.root)
            self._shards.update(missing)

    # -- reading --

    def size(self, blob: str) -> int | None:
        """The size in bytes; None when the blob is not there."""
        try:
            return os.stat(self.path(blob)).st_size
        except (FileNotFoundError, NotFoundError):
            return None

    def open(self, blob: str) -> int:
        """A descriptor for reading `blob`."""
        try:
            return os.open(self.path(blob), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise file_not_found() from error

    # -- exporting --

    def export(self, items: Iterable[Export]) -> None:
        """See `Blobs.export`."""
        for item in items:
            try:
                if not self._linked(item):
                    self._copy(item)
            except FileExistsError as error:
                raise InternalError(text="a file to be placed exists already") from error

    def _linked(self, item: Export) -> bool:
        """Place the blob's own inode, if it looks, or can be made to look, as wanted."""
        path = self.path(item.blob)
        with self._lock:
            try:
                found = os.stat(path)
                if item.separate and found.st_nlink > 1:
                    return False
                if not _looks(found, item) and not (found.st_nlink == 1 and _dress(path, item)):
                    return False
                os.link(path, item.name, dst_dir_fd=item.dir_fd)
            except FileNotFoundError as error:
                raise file_not_found() from error
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                return False
        return True

    def _copy(self, item: Export) -> None:
        source = self.open(item.blob)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(item.name, flags, 0o600, dir_fd=item.dir_fd)
            try:
                _clone_or_copy(source, target)
                _dress(target, item)
            except BaseException:
                os.unlink(item.name, dir_fd=item.dir_fd)
                raise
            finally:
                os.close(target)
        finally:
            os.close(source)

    # -- sweeping --

    def delete(self, blob: str, age_seconds: float) -> bool:
        """Remove `blob` unless it was stored less than `age_seconds` ago; whether it is gone."""
        if self.size(blob) is None:
            return True
        path = self.path(blob)
        with self._lock:
            try:
                if age_seconds and self._clock() - os.stat(path).st_ctime < age_seconds:
                    return False
                os.unlink(path)
            except FileNotFoundError:
                pass
        return True

    def pin(self, blobs: Iterable[str]) -> None:
        """Keep `blobs` from being evicted, until `unpin`."""
        with self._lock:
            self._pins.update(blobs)

    def unpin(self, blobs: Iterable[str]) -> None:
        """Undo one `pin`."""
        with self._lock:
            self._pins.subtract(blobs)
            self._pins = +self._pins

    def remove_unused(self, blob: str, before: float) -> None:
        """Remove `blob` unless it is pinned or was stored since `before`."""
        self._evict(blob, before)

    def evict(self, target_bytes: int, before: float) -> int:
        """Remove what was used longest ago until no more than `target_bytes` are left, but nothing
        pinned or used since `before`; how many bytes are left."""
        found = [item for shard in self.shards() for item in self._items(shard)]
        left = sum(size for _, size, _ in found)
        for changed, _, blob in sorted(found):
            if left <= target_bytes or changed >= before:
                break
            left -= self._evict(blob, before)
        return left

    def _items(self, shard: str) -> Iterator[tuple[float, int, str]]:
        """Change time, size and name of the blobs in a folder."""
        with os.scandir(os.path.join(self.root, shard)) as found:
            for item in found:
                with suppress(FileNotFoundError):
                    status = item.stat(follow_symlinks=False)
                    yield status.st_ctime, status.st_size, item.name

    def _evict(self, blob: str, before: float) -> int:
        """Remove one blob if nobody uses it; the bytes that were freed."""
        path = self.path(blob)
        with self._lock:
            try:
                status = os.stat(path)
                if blob in self._pins or status.st_ctime >= before:
                    return 0
                os.unlink(path)
            except FileNotFoundError:
                return 0
        return status.st_size

    def shards(self) -> list[str]:
        """The folders that blobs are in."""
        return sorted(name for name in os.listdir(self.root) if len(name) == 2)

    def aged(self, shard: str, age_seconds: float) -> list[str]:
        """The blobs of one folder that were last stored at least `age_seconds` ago."""
        now = self._clock()
        with os.scandir(os.path.join(self.root, shard)) as found:
            return [
                item.name
                for item in found
                if _HASH.fullmatch(item.name)
                and now - item.stat(follow_symlinks=False).st_ctime >= age_seconds
            ]


def _read_block(fd: int, offset: int) -> bytes:
    """Up to BLOCK bytes at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, BLOCK, offset)
    while 0 < len(data) < BLOCK and (more := os.pread(fd, BLOCK - len(data), offset + len(data))):
        data += more
    return data


def _renew(path: str) -> None:
    """Set the change time to now, and no other."""
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _flush(folder: str) -> None:
    """Make the names in `folder` durable (fsync(2): the files' own flush does not)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _may_read_as(mode: int) -> bool:
    """Whether the service could still read a file of its own with this mode."""
    return os.geteuid() == 0 or bool(mode & stat.S_IRUSR)


def _take_over(draft: int, source: os.stat_result) -> None:
    """Let a new blob look like the file it came from, as far as the service may."""
    if not _may_read_as(source.st_mode):
        return
    try:
        os.fchown(draft, source.st_uid, source.st_gid)
    except PermissionError:
        return
    os.fchmod(draft, source.st_mode & 0o777)
    os.utime(draft, ns=(source.st_atime_ns, source.st_mtime_ns))


def _owner(item: Export) -> tuple[int, int]:
    """User and group of the file to place: a box's group has the number of its user."""
    return (os.geteuid(), os.getegid()) if item.owner is None else (item.owner, item.owner)


def _looks(found: os.stat_result, item: Export) -> bool:
    return (
        stat.S_IMODE(found.st_mode) == item.mode & 0o777
        and found.st_mtime_ns == item.mtime_ns
        and (found.st_uid, found.st_gid) == _owner(item)
    )


def _dress(file: str | int, item: Export) -> bool:
    """Give `file` (a path or descriptor) the looks of `item`.  A path is a blob nobody has linked
    yet; it is left alone, and the answer False, when the service could not read it afterwards."""
    if isinstance(file, str) and not _may_read_as(item.mode):
        return False
    os.chown(file, *_owner(item))
    os.chmod(file, item.mode & 0o777)
    os.utime(file, ns=(item.mtime_ns, item.mtime_ns))
    return True


def _clone_or_copy(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
    else:
        return
    done, size = 0, os.fstat(source).st_size
    while done < size:
        moved = os.sendfile(target, source, done, size - done)
        if not moved:
            raise OSError(errno.EIO, "a blob is shorter than it was")
        done += moved
