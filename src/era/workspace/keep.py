"""Files of a manifest as a plain directory for people: nothing of the service's own refers to it.

The bytes are copied, where a session's tree may share them with the blob store: whoever finds the
directory may do with it what they like.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import ExitStack

from era import ids
from era.models import FileEntry, FileKind
from era.storage.base import Blobs
from era.workspace import beneath
from era.workspace.failures import settled, translated
from era.workspace.patch import Patch


async def keep(entries: Iterable[FileEntry], blobs: Blobs, root: str, name: str) -> None:
    """Make the directory `name` in `root` of `entries`, whole or not at all; one of that name that
    is there already goes.

    Raises:
        UnavailableError: `storage_full`.
        InternalError: the file system fails.
        NotFoundError: `file_not_found`, for bytes that are missing.
    """
    draft = f".{ids.new_token()}"
    with translated(), ExitStack() as stack:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, top)
        try:
            await _fill(beneath.make_dirs(top, draft, mode=0o700), tuple(entries), blobs)
            await settled(asyncio.to_thread(beneath.remove_tree, top, name))
            os.rename(draft, name, src_dir_fd=top, dst_dir_fd=top)
        except BaseException:
            await settled(asyncio.to_thread(beneath.remove_tree, top, draft))
            raise


async def _fill(dir_fd: int, entries: tuple[FileEntry, ...], blobs: Blobs) -> None:
    try:
        patch = Patch(dir_fd=dir_fd, owner=None)
        await settled(asyncio.to_thread(patch.make_dirs_and_links, entries))
        for entry in entries:
            if entry.kind is FileKind.FILE:
                await _copy(dir_fd, entry, blobs)
        await settled(asyncio.to_thread(patch.finish))
    finally:
        os.close(dir_fd)


async def _copy(dir_fd: int, entry: FileEntry, blobs: Blobs) -> None:
    assert entry.blob is not None
    above, _, name = entry.path.rpartition("/")
    at = beneath.make_dirs(dir_fd, above or ".")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=at)
    finally:
        os.close(at)
    try:
        async for chunk in blobs.open(entry.blob):
            await settled(asyncio.to_thread(_write, fd, chunk))
        os.fchmod(fd, entry.mode & 0o777)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """All of it: the kernel may take less at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
