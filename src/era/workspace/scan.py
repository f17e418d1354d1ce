"""Reading the upper directory of an overlay: what was written, removed, and what is not kept.

Only the upper is looked at, so this costs what a run changed and not what its session holds.  Its
form is the overlay file system's own (Documentation/filesystems/overlayfs.rst): a device 0:0 marks
a deleted name, an attribute `opaque` says that a directory hides what was below it before.

Every process of the box is dead when this runs.  What is there was made by code we do not trust:
nothing is opened here but directories, no link is followed, and no number is believed.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from era.errors import InternalError
from era.models import FileEntry, FileKind, SkippedFile
from era.relpath import DATA_FILE, MAX_PATH_BYTES, MAX_SEGMENT_BYTES, RESERVED_DIR, RelPath
from era.workspace import beneath
from era.workspace.rules import is_cache, is_secret, leads_outside

MAX_SKIPPED: Final = 100
"""Entries that are remembered as skipped: as many as a result reports."""

MAX_BYTES: Final = 64 << 30
"""Bound of file sizes together when there is no quota: a sparse file costs its writer nothing."""

_FOREIGN: Final = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
"""With these an upper names what it does not hold.  The overlay of a box is mounted without."""

_HIDDEN: Final = os.stat_result((stat.S_IFDIR, *[0] * 9))
"""A directory that looks like none: what is there is removed or written without comparing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectContext:
    """What a run started from, and what is not its own.

    `tree_fd` is the session's tree and `layer_fd` the workspace part of its setup layer, both as
    open directories, None when there is none.  `own_names` are files of the service at the
    workspace root.  With `everything` no change is passed over or left out for its name, and no link
    for where it leads.  `max_bytes` bounds the sum of file sizes (0: `MAX_BYTES`), `max_entries` the
    names looked at.  `xattr_prefix` is what the overlay's own attributes begin with: `user` when it
    was mounted with `userxattr`, as by a service that is not root, else `trusted`; those of the
    other kind are the program's own.
    """

    tree_fd: int | None = None
    layer_fd: int | None = None
    own_names: frozenset[str] = frozenset()
    everything: bool = False
    max_entries: int = 200_000
    max_bytes: int = 0
    xattr_prefix: Literal["trusted", "user"] = "trusted"


class QuotaError(Exception):
    """The upper holds more than the context allows."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """What is found in an upper.  Files are in `files`, by inode, and have no blob yet; links and
    directories are in `others`."""

    context: CollectContext
    files: dict[int, list[FileEntry]] = field(default_factory=dict)
    others: list[FileEntry] = field(default_factory=list)
    removed: list[RelPath] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    _entries: int = 0
    _bytes: int = 0
    _noted: int = 0
    _ignored: int = 0

    def run(self, dir_fd: int) -> None:
        """Look through the open upper directory.

        One directory is open at a time, found again from the top by its path, whose length is
        bounded: depth costs neither stack nor descriptors.

        Raises:
            QuotaError: as soon as a bound is passed.
            InternalError: the upper is in a form that this cannot read.
        """
        waiting = [(b"", False)]
        while waiting:
            above, hidden = waiting.pop()
            try:
                waiting += self._visit(dir_fd, above, hidden)
            except PermissionError:
                self.skip(_shown(above), "unreadable")

    def skip(self, path: str, reason: str) -> None:
        """Remember that the change at `path` is not kept."""
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(SkippedFile(path=path, reason=reason))

    def _visit(self, dir_fd: int, above: bytes, hidden: bool) -> list[tuple[bytes, bool]]:
        here = beneath.open_dir(dir_fd, above or b".")
        try:
            inner = self._directory(here, above)
            if above:
                hidden = self._itself(here, str.__new__(RelPath, above.decode()), hidden=hidden)
        finally:
            os.close(here)
        return [(path, hidden) for path in inner]

    def _directory(self, here: int, above: bytes) -> list[bytes]:
        """Note what is in an open directory; the directories in it, to look into."""
        inner = []
        self._noted = self._ignored = 0
        for name, status in beneath.iterate(here):
            self._entries += 1
            if self._entries > self.context.max_entries:
                raise QuotaError
            raw = above + b"/" + name if above else name
            path = _path(raw, name)
            if path is None:
                if not beneath.is_whiteout(status):
                    self.skip(_shown(raw), "bad_name")
            elif self._is_ours(path, status):
                self._ignored += 1
            elif stat.S_ISDIR(status.st_mode):
                inner.append(raw)
            else:
                self._noted += 1
                self._leaf(here, path, status)
        return inner

    def _is_ours(self, path: RelPath, status: os.stat_result) -> bool:
        """Whether the change is none of the program's, and is passed over in silence."""
        if self.context.everything:
            return False
        if path in (DATA_FILE, RESERVED_DIR) or path in self.context.own_names:
            return True
        if beneath.is_whiteout(status):
            return False
        directory = stat.S_ISDIR(status.st_mode)
        return is_cache(path, directory=directory) or (not directory and self._is_layers(path))

    def _is_layers(self, path: RelPath) -> bool:
        """Whether the file came with the setup layer, and the session has none of its own there."""
        layers = _found(self.context.layer_fd, path)
        if layers is None or stat.S_ISDIR(layers.st_mode) or beneath.is_whiteout(layers):
            return False
        return self._before(path) is None

    def _before(self, path: RelPath) -> os.stat_result | None:
        """What the snapshot has at `path`."""
        return _found(self.context.tree_fd, path)

    def _itself(self, here: int, path: RelPath, *, hidden: bool) -> bool:
        """Note the open directory just looked through; whether it hides what the snapshot has
        below it.  It is `hidden` when a directory above it does."""
        status = os.fstat(here)
        before = None if hidden else self._before(path)
        opaque = "opaque" in overlay_attributes(here, self.context.xattr_prefix)
        if opaque and before is not None:
            self.removed.append(path)
        if opaque or self._looks_new(path, status, before):
            self.others.append(_entry(path, FileKind.DIR, status))
        return hidden or opaque

    def _looks_new(
        self, path: RelPath, status: os.stat_result, before: os.stat_result | None
    ) -> bool:
        """Whether a directory differs from before.

        Its time alone is no change when all that happened in it was passed over, and directories
        of the setup layer are implied by the files below them.
        """
        if before is None:
            layers = _found(self.context.layer_fd, path)
            return layers is None or not stat.S_ISDIR(layers.st_mode)
        if before.st_mode != status.st_mode:
            return True
        only_ignored = self._ignored > 0 == self._noted
        return before.st_mtime_ns != status.st_mtime_ns and not only_ignored

    def _leaf(self, here: int, path: RelPath, status: os.stat_result) -> None:
        """Note what is not a directory."""
        if beneath.is_whiteout(status):
            self.remove(path)
        elif stat.S_ISREG(status.st_mode):
            self._file(path, status)
        elif stat.S_ISLNK(status.st_mode):
            self._link(os.readlink(os.fsencode(path.segments[-1]), dir_fd=here), path, status)
        else:
            self.skip(path, "special_file")

    def remove(self, path: RelPath) -> None:
        """Note a deletion; what the snapshot did not have needs none."""
        if self._before(path) is not None:
            self.removed.append(path)

    def _file(self, path: RelPath, status: os.stat_result) -> None:
        if self._is_secret(path):
            self.skip(path, "secret_name")
            return
        self._bytes += status.st_size
        if self._bytes > (self.context.max_bytes or MAX_BYTES):
            raise QuotaError
        self._replaced(path)
        self.files.setdefault(status.st_ino, []).append(_entry(path, FileKind.FILE, status))

    def _link(self, raw: bytes, path: RelPath, status: os.stat_result) -> None:
        target = raw.decode("utf-8", "replace")
        if self._is_secret(path):
            self.skip(path, "secret_name")
        elif target.encode() != raw:
            self.skip(path, "bad_name")
        elif not self.context.everything and leads_outside(path, target):
            self.skip(path, "outside_link")
        else:
            self._replaced(path)
            self.others.append(replace(_entry(path, FileKind.LINK, status), target=target))

    def _is_secret(self, path: RelPath) -> bool:
        return not self.context.everything and is_secret(path)

    def _replaced(self, path: RelPath) -> None:
        """A directory of the snapshot that is no longer one takes with it what was below."""
        before = self._before(path)
        if before is not None and stat.S_ISDIR(before.st_mode):
            self.removed.append(path)


def overlay_attributes(fd: int, prefix: str) -> frozenset[str]:
    """What the overlay says of an open file or directory: `opaque`, `whiteout`.

    A program cannot forge them: the overlay stores what is set under its own names under others,
    and names that do not begin with its `prefix` say nothing.

    Raises:
        InternalError: for a form that an overlay mounted as ours are does not make.
    """
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS):
            raise
        return frozenset()  # without attributes it cannot be an upper that uses them
    if any(name in _FOREIGN for name in names):
        raise InternalError(text="the workspace is in a form that cannot be read")
    opaque, whiteout = f"{prefix}.overlay.opaque", f"{prefix}.overlay.whiteout"
    says = ["whiteout"] if whiteout in names else []
    if opaque in names and os.getxattr(fd, opaque) == b"y":
        says.append("opaque")
    return frozenset(says)


def _found(dir_fd: int | None, path: RelPath) -> os.stat_result | None:
    """What stands at `path`; `_HIDDEN` when a directory above it shuts the service out."""
    try:
        return None if dir_fd is None else beneath.lstat(dir_fd, path)
    except PermissionError:
        return _HIDDEN


def _path(raw: bytes, name: bytes) -> RelPath | None:
    """The path as text; None when it is not UTF-8 or too long for one.

    It ends with `name`, and what is above was looked at before: only the end is checked, which
    spares each of many deep files all the names of its path.
    """
    if len(raw) > MAX_PATH_BYTES or len(name) > MAX_SEGMENT_BYTES:
        return None
    try:
        return str.__new__(RelPath, raw.decode())
    except UnicodeDecodeError:
        return None


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _entry(path: RelPath, kind: FileKind, status: os.stat_result) -> FileEntry:
    return FileEntry(
        path=path,
        kind=kind,
        size=status.st_size if kind is FileKind.FILE else 0,
        mode=status.st_mode & 0o777,
        mtime_ns=status.st_mtime_ns,
    )
