"""Turning a directory from one revision of a manifest into another, in time that follows the change.

A manifest names files, links and stored directories; a directory above one of them that is not
stored itself is implied.  Implied directories have one mode and one time, `IMPLIED`, by which they
are known again on disk: the last file to leave one takes it along.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from era.models import FileEntry, FileKind
from era.relpath import RelPath
from era.storage.base import Export
from era.workspace import beneath

IMPLIED: Final = (0o755, 946_684_800_000_000_001)
"""Mode and time (ns) of implied directories: the first nanosecond of 2000.  A time that archive
formats can hold, and that nobody sets by accident."""

_NO_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True, kw_only=True)
class Patch:
    """The work on one open directory.  All methods block; call them in the order they stand in.

    `owner` is uid and gid of everything made; None leaves the service's own.
    """

    dir_fd: int
    owner: int | None
    anew: bool = False
    """Whether the directory was empty, so that all that is in it is known."""
    _placed: set[str] = field(default_factory=set)
    _looks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def remove(self, removed: Iterable[RelPath], written: Iterable[FileEntry]) -> None:
        """Take away what is no longer there.  `written` is what comes after: making and removing
        names changes the times of the directories above, so those are remembered first."""
        paths = sorted(set(removed), reverse=True)  # what is below comes before what is above
        for path in (*paths, *(entry.path for entry in written)):
            self._remember(path)
        for path in paths:
            self._remove_one(path)

    def make_dirs_and_links(self, written: Iterable[FileEntry]) -> None:
        """Make directories and links, with the directories above them."""
        for entry in written:
            if entry.kind is FileKind.DIR:
                self._make_dir(entry)
            elif entry.kind is FileKind.LINK:
                self._make_link(entry)

    def exports(self, files: Sequence[FileEntry], opened: ExitStack) -> list[Export]:
        """Make room for files; how to place them.  `opened` closes the directories."""
        directories: dict[str, int] = {}
        return [self._export(entry, directories, opened) for entry in files]

    def finish(self) -> None:
        """Give every directory that was touched its mode and time; drop the implied empty ones."""
        for path in sorted(self._looks, reverse=True):
            look = self._looks[path]
            if look != IMPLIED or not self._dropped(path):
                self._set(path, look)

    def _remember(self, path: RelPath) -> None:
        """Only what is above a path is in `_looks` by now: what is above one of them is as well."""
        there = True
        for above in self._unknown_above(path):
            found = beneath.lstat(self.dir_fd, above) if there else None
            there = found is not None and stat.S_ISDIR(found.st_mode)
            self._looks[above] = IMPLIED
            if found is not None and there:
                self._looks[above] = (found.st_mode & 0o777, found.st_mtime_ns)

    def _unknown_above(self, path: str) -> list[str]:
        """The directories above `path` that are not in `_looks`, topmost first."""
        unknown: list[str] = []
        while (path := path.rpartition("/")[0]) and path not in self._looks:
            unknown.append(path)
        return unknown[::-1]

    def _remove_one(self, path: RelPath) -> None:
        """What is below a removed directory may stay, or come back: then it is implied."""
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with missing, beneath.parent(self.dir_fd, path) as (at, name):
            if not beneath.remove_one(at, name) or path in self._looks:
                self._looks[path] = IMPLIED

    def _make_dir(self, entry: FileEntry) -> None:
        found = beneath.lstat(self.dir_fd, entry.path)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            beneath.remove_tree(self.dir_fd, entry.path)
        os.close(beneath.make_dirs(self.dir_fd, entry.path, owner=self.owner))
        look = (entry.mode & 0o777, entry.mtime_ns)
        self._looks[entry.path] = look if look != IMPLIED else (look[0], look[1] + 1)

    def _make_link(self, entry: FileEntry) -> None:
        assert entry.target is not None
        at = self._clear_place(entry.path)
        try:
            name = entry.path.segments[-1]
            beneath.make_link(at, name, entry.target, owner=self.owner, mtime_ns=entry.mtime_ns)
        finally:
            os.close(at)

    def _clear_place(self, path: RelPath) -> int:
        """The directory of `path`, open, with nothing at `path`."""
        above, _, name = path.rpartition("/")
        at = beneath.make_dirs(self.dir_fd, above or ".", owner=self.owner)
        try:
            beneath.remove_tree(at, name)
        except OSError:
            os.close(at)
            raise
        self._looks.pop(path, None)
        return at

    def _export(self, entry: FileEntry, directories: dict[str, int], opened: ExitStack) -> Export:
        assert entry.blob is not None
        above, _, name = entry.path.rpartition("/")
        if above not in directories:
            at = self._clear_place(entry.path)
            opened.callback(os.close, at)
            directories[above] = at
        else:
            beneath.remove_tree(directories[above], name)
            self._looks.pop(entry.path, None)
        separate = not self.anew or entry.blob in self._placed
        self._placed.add(entry.blob)
        return Export(
            blob=entry.blob,
            dir_fd=directories[above],
            name=name,
            mode=entry.mode & 0o777,
            mtime_ns=entry.mtime_ns,
            owner=self.owner,
            separate=separate,
        )

    def _dropped(self, path: str) -> bool:
        """Whether an implied directory is not there, or held nothing and is gone now."""
        try:
            with beneath.parent(self.dir_fd, path) as (at, name):
                os.rmdir(name, dir_fd=at)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                return False
        return True

    def _set(self, path: str, look: tuple[int, int]) -> None:
        mode, mtime_ns = look
        fd = beneath.open_dir(self.dir_fd, path)
        try:
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
