"""Small stores in memory for tests of this room: a manifest with its history, and blobs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from era.errors import NotFoundError
from era.models import FileEntry, FileKind, SessionRecord
from era.relpath import RelPath
from era.storage.base import Blob, Blobs, Export, ManifestDiff, Records
from era.workspace import beneath

UID = 7


class MemoryBlobs:
    """The part of `Blobs` that this room uses.  `fail_after` more exports, then the disk breaks."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.reads = 0
        self.most_open = 0
        self.fail_after: int | None = None

    def add(self, content: bytes) -> Blob:
        name = hashlib.sha256(content).hexdigest()
        self.kept[name] = content
        return Blob(hash=name, size=len(content))

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        every = list(fds)
        self.most_open = max(self.most_open, len(every))
        self.reads += len(every)
        return tuple(self.add(os.pread(fd, os.fstat(fd).st_size, 0)) for fd in every)

    async def export(self, items: Iterable[Export]) -> None:
        for item in items:
            if self.fail_after is not None:
                self.fail_after -= 1
                if self.fail_after < 0:
                    raise OSError("the disk broke")
            if item.blob not in self.kept:
                raise NotFoundError("file_not_found")
            beneath.write_file(
                item.dir_fd,
                item.name,
                self.kept[item.blob],
                owner=item.owner,
                mode=item.mode,
                mtime_ns=item.mtime_ns,
            )

    def as_blobs(self) -> Blobs:
        return cast(Blobs, self)


@dataclass
class Manifest:
    """Every revision of one session's manifest; `forgotten` is the newest that no diff begins at."""

    states: list[dict[RelPath, FileEntry]] = field(default_factory=lambda: [{}])
    forgotten: int = -1
    asked: list[int] = field(default_factory=list)

    @property
    def now(self) -> dict[RelPath, FileEntry]:
        return self.states[-1]

    def change(self, *written: FileEntry, removed: Iterable[str] = ()) -> None:
        state = dict(self.now)
        for path in removed:
            del state[RelPath(path)]
        state |= {entry.path: entry for entry in written}
        self.states.append(state)

    def record(self) -> SessionRecord:
        return SessionRecord(
            uid=UID,
            id="s",
            language="python",
            persistent=True,
            created_at_ms=0,
            updated_at_ms=0,
            last_run_at_ms=None,
            metadata="{}",
            data="{}",
            data_revision=0,
            allow_internet=False,
            allow_public=False,
            default_timeout_seconds=None,
            cpu_count=None,
            memory_mib=None,
            has_code=False,
            file_count=len(self.now),
            total_size_bytes=0,
            files_revision=len(self.states) - 1,
        )

    async def manifest_diff(self, uid: int, since: int) -> ManifestDiff | None:
        assert uid == UID
        self.asked.append(since)
        if 0 < since <= self.forgotten:
            return None
        before = self.states[since] if since else {}
        return ManifestDiff(
            revision=len(self.states) - 1,
            removed=tuple(path for path in before if path not in self.now),
            written=tuple(e for path, e in self.now.items() if before.get(path) != e),
        )

    def as_records(self) -> Records:
        return cast(Records, self)


def file(path: str, blob: Blob, *, mode: int = 0o644, mtime_ns: int = 1) -> FileEntry:
    return FileEntry(
        path=RelPath(path), blob=blob.hash, size=blob.size, mode=mode, mtime_ns=mtime_ns
    )


def link(path: str, target: str, *, mtime_ns: int = 1) -> FileEntry:
    kind = FileKind.LINK
    return FileEntry(path=RelPath(path), kind=kind, target=target, mode=0o777, mtime_ns=mtime_ns)


def directory(path: str, *, mode: int = 0o755, mtime_ns: int = 1) -> FileEntry:
    return FileEntry(path=RelPath(path), kind=FileKind.DIR, mode=mode, mtime_ns=mtime_ns)
