"""What a run did to its workspace, as changes that can be committed."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
            await settled(asyncio.to_thread(scan.run, dir_fd))
        except QuotaError:
            return CollectResult(
                changes=Changes(skipped=tuple(scan.skipped)), error="quota_exceeded"
            )
        written = await _store(dir_fd, blobs, scan)
    written += scan.others
    return CollectResult(
        changes=Changes(
            written=tuple(sorted(written, key=lambda entry: entry.path)),
            removed=tuple(sorted(scan.removed)),
            skipped=tuple(scan.skipped),
        )
    )


async def _store(dir_fd: int, blobs: Blobs, scan: Scan) -> list[FileEntry]:
    """Store each inode once; an entry of its own for each of its names."""
    written: list[FileEntry] = []
    names = iter(scan.files.values())
    while batch := list(islice(names, _BATCH)):
        with ExitStack() as opened:
            kept = await settled(asyncio.to_thread(_open_batch, dir_fd, batch, scan, opened))
            stored = await settled(blobs.put_fds([fd for fd, _ in kept]))
        for blob, (_, entries) in zip(stored, kept, strict=True):
            written += _with_blob(entries, blob)
    return written


def _with_blob(entries: Sequence[FileEntry], blob: Blob) -> list[FileEntry]:
    return [replace(entry, blob=blob.hash, size=blob.size) for entry in entries]


def _open_batch(
    dir_fd: int, batch: Sequence[list[FileEntry]], scan: Scan, opened: ExitStack
) -> list[tuple[int, list[FileEntry]]]:
    """Open each file once (`opened` closes it); those that cannot be are noted in `scan`."""
    kept = []
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
    return kept
