"""What a run did to its workspace, as changes that can be committed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from era.models import Changes, FileEntry
from era.storage.base import Blob, Blobs
from era.workspace import beneath
from era.workspace.failures import settled, translated
from era.workspace.scan import CollectContext, QuotaError, Scan, overlay_attributes

__all__ = ["CollectContext", "CollectResult", "collect"]

_BATCH: Final = 64
"""Files open at once while their contents are stored."""

_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Failures to open that say nothing about the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectResult:
    """`changes` with the bytes already stored.  With an `error` (`quota_exceeded`) no file change
    may be kept, and `changes` holds only what was skipped until then."""

    changes: Changes
    error: str | None = None


async def collect(dir_fd: int, *, blobs: Blobs, context: CollectContext) -> CollectResult:
    """The changes in the open upper directory `dir_fd` of an overlay; contents go to `blobs`.

    A path that is skipped stays as the snapshot had it.  Unchanged files that were copied up are
    among the written ones.  Cancelling waits for the work in progress.

    Raises:
        UnavailableError: `storage_full`.
        InternalError: the upper cannot be read.
    """
    scan = Scan(context=context)
    with translated():
        try:
            written = await _store(dir_fd, blobs, scan)
        except QuotaError:
            return CollectResult(
                changes=Changes(skipped=tuple(scan.skipped)), error="quota_exceeded"
            )
    written += scan.others
    return CollectResult(
        changes=Changes(
            written=tuple(sorted(written, key=lambda entry: entry.path)),
            removed=tuple(sorted(scan.removed)),
            skipped=tuple(scan.skipped),
        )
    )


async def _store(dir_fd: int, blobs: Blobs, scan: Scan) -> list[FileEntry]:
    """Scan, then store each inode once; an entry of its own for each of its names.

    A thread is asked as seldom as possible: the one that stores some files has scanned for them and
    opened them before, as it goes through what it was given.
    """
    written: list[FileEntry] = []
    files = _found(dir_fd, scan)
    while True:
        with ExitStack() as opened:
            batch = _Batch(dir_fd, scan, opened)
            stored = await settled(blobs.put_fds(batch.fds(files)))
        for blob, entries in zip(stored, batch.kept, strict=True):
            written += _with_blob(entries, blob)
        if batch.last:
            return written


def _found(dir_fd: int, scan: Scan) -> Iterator[list[FileEntry]]:
    """Scan at the first step; then the names of one inode after the other."""
    scan.run(dir_fd)
    yield from scan.files.values()


def _with_blob(entries: Sequence[FileEntry], blob: Blob) -> list[FileEntry]:
    return [replace(entry, blob=blob.hash, size=blob.size) for entry in entries]


@dataclass(slots=True)
class _Batch:
    """Some of the files that were found, each open once while `opened` is; those that cannot be
    opened are noted in `scan`."""

    dir_fd: int
    scan: Scan
    opened: ExitStack
    kept: list[list[FileEntry]] = field(default_factory=list)
    """The names of each inode that `fds` has given, in that order."""
    last: bool = False
    """Whether nothing comes after it."""

    def fds(self, files: Iterator[list[FileEntry]]) -> Iterator[int]:
        """Open the next of `files`; blocks."""
        batch = list(islice(files, _BATCH))
        self.last = len(batch) < _BATCH
        for entries in batch:
            try:
                fd = beneath.open_regular(self.dir_fd, entries[0].path)
            except OSError as error:
                if error.errno in _OURS:
                    raise
                for entry in entries:
                    self.scan.skip(entry.path, "unreadable")
                continue
            self.opened.callback(os.close, fd)
            says = overlay_attributes(fd, self.scan.context.xattr_prefix)
            if "whiteout" in says and entries[0].size == 0:
                for entry in entries:
                    self.scan.remove(entry.path)
            else:
                self.kept.append(entries)
                yield fd
