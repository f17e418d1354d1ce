"""The files of a session, or of a VM, from outside: the list, and bytes in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from era.errors import InputError, NotFoundError, file_not_found
from era.models import FileEntry, FileKind, Page
from era.relpath import RelPath
from era.sessions.parts import Parts
from era.storage.base import Blobs, Quota
from era.storage.links import root_of, walk

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A stored file ready to be read; `entry` is the file itself, a link followed."""

    entry: FileEntry
    blobs: Blobs

    def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes `[start, end)` in chunks."""
        assert self.entry.blob is not None
        return self.blobs.open(self.entry.blob, start, end)


class Files:
    """Files by the id of a session, or the key of a VM, and their path in its manifest."""

    def __init__(self, parts: Parts, file_bytes: int) -> None:
        self._parts = parts
        self._records = parts.records
        self._file_bytes = file_bytes

    async def page(
        self, session_id: str, prefix: str, limit: int | None, cursor: str | None
    ) -> Page[FileEntry]:
        """Files by path.  Raises NotFoundError."""
        return await self._records.files(session_id, prefix=prefix, limit=limit, cursor=cursor)

    async def open(self, session_id: str, path: RelPath) -> OpenFile:
        """A file, to be read.  A link is followed inside the manifest.

        Raises:
            NotFoundError: `session_not_found`, `file_not_found` (also for a directory).
        """
        entry = await self._records.file(session_id, path)
        if entry.kind is FileKind.LINK:
            entry = await self._follow(session_id, entry)
        if entry.kind is not FileKind.FILE:
            raise file_not_found()
        return OpenFile(entry=entry, blobs=self._parts.blobs)

    async def _follow(self, session_id: str, link: FileEntry) -> FileEntry:
        steps = walk(link, root_of(session_id))
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await self._entry(session_id, wanted))
        except StopIteration as end:
            found: FileEntry | None = end.value
        if found is None:
            raise file_not_found()
        return found

    async def _entry(self, session_id: str, path: str) -> FileEntry | None:
        try:
            return await self._records.file(session_id, RelPath(path))
        except InputError:  # the target of a link may be what no path is
            return None
        except NotFoundError as error:
            if error.code != "file_not_found":
                raise
            return None

    async def put(
        self,
        session_id: str,
        path: RelPath,
        chunks: AsyncIterator[bytes],
        content_type: str | None,
        quota: Quota,
    ) -> FileEntry:
        """Store a file; nothing of it is seen before all of it is there.

        Raises:
            InputError: `invalid_path`.
            TooLargeError: `file_too_large`, `quota_exceeded`.
            NotFoundError: `session_not_found`.
        """
        await self._records.get(session_id)
        blob = await self._parts.blobs.put(chunks, limit=self._file_bytes)
        now_ms = self._parts.clock()
        entry = FileEntry(
            path=path,
            blob=blob.hash,
            size=blob.size,
            mtime_ns=now_ms * _NS_PER_MS,
            content_type=content_type,
            uploaded_at_ms=now_ms,
        )
        return await self._records.put_file(session_id, entry, quota, now_ms)

    async def delete(self, session_id: str, path: RelPath, recursive: bool) -> None:
        """Remove a file, or with `recursive` a directory.

        Raises:
            InputError: `invalid_path`.
            NotFoundError: `session_not_found`, `file_not_found`.
        """
        await self._records.delete_file(
            session_id, path, recursive=recursive, now_ms=self._parts.clock()
        )
