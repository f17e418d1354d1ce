"""What a run did to its workspace, as changes that can be committed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from era.models import Changes, FileEntry
from era.storage.base import Blob, Blobs
from era.workspace import beneath
from era.workspace.failures import settled, threaded, translated
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

    A thread is asked as seldom as possible: a few files cost two calls, one that scans and opens
    them and one that stores them.
    """
    written: list[FileEntry] = []
    files = _found(dir_fd, scan)
    more = True
    while more:
        with ExitStack() as opened:
            kept, more = await threaded(_open_batch, dir_fd, files, scan, opened)
            stored = await settled(blobs.put_fds([fd for fd, _ in kept])) if kept else ()
        for blob, (_, entries) in zip(stored, kept, strict=True):
            written += _with_blob(entries, blob)
    return written


def _found(dir_fd: int, scan: Scan) -> Iterator[list[FileEntry]]:
    """Scan at the first step; then the names of one inode after the other."""
    scan.run(dir_fd)
    yield from scan.files.values()


def _with_blob(entries: Sequence[FileEntry], blob: Blob) -> list[FileEntry]:
    return [replace(entry, blob=blob.hash, size=blob.size) for entry in entries]


def _open_batch(
    dir_fd: int, files: Iterator[list[FileEntry]], scan: Scan, opened: ExitStack
) -> tuple[list[tuple[int, list[FileEntry]]], bool]:
    """Open the next files, each once (`opened` closes it), and say whether there may be more; those
    that cannot be opened are noted in `scan`."""
    kept = []
    batch = list(islice(files, _BATCH))
    for entries in batch:
        try:
            fd = beneath.open_regular(dir_fd, entries[0].path)
        except OSError as error:
            if error.errno in _OURS:
                raise
            for entry in entries:
                scan.skip(entry.path, "unreadable")
            continue
        opened.callback(os.close, fd)
        if "whiteout" in overlay_attributes(fd, scan.context.xattr_prefix) and entries[0].size == 0:
            for entry in entries:
                scan.remove(entry.path)
        else:
            kept.append((fd, entries))
    return kept, len(batch) == _BATCH
