"""What the suites of records are written with: made-up values and one-line calls."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from era.errors import EraError
from era.models import (
    Changes,
    FileEntry,
    FileKind,
    NewSession,
    SessionRecord,
    SetupProgress,
    SetupSpec,
)
from era.relpath import RelPath
from era.storage.base import Committed, LayerRecord, Quota, Records, RunCommit

serial = itertools.count()
FREE = Quota(total_bytes=0, count=0)
NEW = NewSession(id=None, language="python", allow_internet=False)
PIP = SetupSpec(pip=("six",), request='{"pip":["six"]}')
FAILED = '{"success":false,"duration_ms":1,"error":"gave up"}'


def blob(content: str) -> str:
    """A made-up hash that differs for different contents."""
    return content.encode().hex().rjust(64, "0")[-64:]


def file(path: str, content: str = "", *, mode: int = 0o644, mtime_ns: int = 1) -> FileEntry:
    return FileEntry(
        path=RelPath(path), blob=blob(content), size=len(content), mode=mode, mtime_ns=mtime_ns
    )


def link(path: str, target: str) -> FileEntry:
    return FileEntry(path=RelPath(path), kind=FileKind.LINK, target=target, mode=0o777)


def folder(path: str, mode: int = 0o755) -> FileEntry:
    return FileEntry(path=RelPath(path), kind=FileKind.DIR, mode=mode)


def progress(
    step: str, index: int, total: int, started_at_ms: int, line: str = ""
) -> SetupProgress:
    return SetupProgress(
        step=step,
        step_index=index,
        steps_total=total,
        started_at_ms=started_at_ms,
        last_line=line,
    )


def layer(key: str, blob: str, size: int, now: int, result: str = "{}") -> LayerRecord:
    return LayerRecord(key=key, blob=blob, size=size, created_at_ms=now, result=result)


async def make(records: Records, name: str = "s", new: NewSession = NEW) -> SessionRecord:
    return await records.create(name, new, 1000, None)


async def upload(records: Records, *entries: FileEntry, name: str = "s") -> None:
    for entry in entries:
        await records.put_file(name, entry, FREE, 2000)


async def commit(
    records: Records,
    *written: FileEntry,
    removed: Iterable[str] = (),
    snapshot: int | None = None,
    data: str | None = None,
    quota: Quota = FREE,
    name: str = "s",
    now: int = 3000,
) -> Committed:
    """Commit a run that began now, or at the revision `snapshot`."""
    session = await records.get(name)
    return await records.commit_run(
        RunCommit(
            uid=session.uid,
            snapshot_revision=session.files_revision if snapshot is None else snapshot,
            finished_at_ms=now,
            data=data,
            changes=Changes(written=written, removed=tuple(map(RelPath, removed))),
        ),
        quota,
    )


async def paths(records: Records, name: str = "s", prefix: str = "") -> list[str]:
    return [str(entry.path) for entry in (await records.files(name, prefix=prefix)).items]


async def everything(records: Records, name: str = "s") -> dict[str, FileEntry]:
    """The current tree with its directories, by path."""
    diff = await records.manifest_diff((await records.get(name)).uid, 0)
    assert diff is not None
    assert diff.removed == ()
    return {str(entry.path): entry for entry in diff.written}


async def assert_counts(records: Records, name: str = "s") -> None:
    """The session's counts are what its list shows."""
    session, page = await records.get(name), await records.files(name)
    assert session.file_count == page.total == len(page.items)
    files = [entry.size for entry in page.items if entry.kind is FileKind.FILE]
    assert session.total_size_bytes == page.total_size_bytes == sum(files)


def refuses(code: str, kind: type[EraError] = EraError) -> pytest.RaisesExc[EraError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)
