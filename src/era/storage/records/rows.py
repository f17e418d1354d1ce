"""Database rows to the values of `era.models`, and back.  Shapes only; no statement is run here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from era.models import (
    FileEntry,
    FileKind,
    NewSession,
    SessionRecord,
    SetupProgress,
    SetupState,
    SetupStatus,
    VmState,
)
from era.relpath import RelPath
from era.storage.records.entry_statements import GONE
from era.storage.records.statements import SESSION_COLUMNS, SETUP_COLUMNS, VM_COLUMNS

_SESSION: Final = tuple(column.name for column in SESSION_COLUMNS)
_N: Final = len(_SESSION)
_V: Final = _N + len(SETUP_COLUMNS)
_M: Final = _V + len(VM_COLUMNS)
_INT64: Final = 2**63 - 1
_KINDS: Final = {kind.value: kind for kind in FileKind}

NO_SETUP_RESULT: Final = '{"success":true,"duration_ms":0,"cached":false}'
"""The result of a setup that had nothing to do."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the entries of a session are: its own, and, where it has none, those that `base` had at
    `base_revision` (copies only)."""

    uid: int
    base: int | None = None
    base_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A session inside the unit that changes it: the record, and what a client never sees."""

    record: SessionRecord
    dir_count: int
    history_from: int
    tree: Tree


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored manifest entry: its row and the revision it appeared in."""

    entry: FileEntry
    key: int
    since: int


def session(row: Sequence[Any]) -> SessionRecord:
    """A row of `statements.session_*`."""
    setup = None if row[_N] is None else setup_state(row[_N:_V])
    vm = None if row[_V] is None else vm_state(row[_V:_M])
    return SessionRecord(
        **dict(zip(_SESSION, row[:_N], strict=True)), has_code=bool(row[_M]), setup=setup, vm=vm
    )


def held(row: Sequence[Any]) -> Held:
    """A row of `statements.lock_*`."""
    record = session(row)
    dir_count, history_from, base, base_revision = row[_M + 1 : _M + 5]
    return Held(record, dir_count, history_from, Tree(record.uid, base, base_revision))


def vm_state(row: Sequence[Any]) -> VmState:
    """The columns VM_COLUMNS."""
    network_mode, persist, image, stopped = row
    return VmState(
        network_mode=network_mode, persist=bool(persist), image=image, stopped=bool(stopped)
    )


def setup_state(row: Sequence[Any]) -> SetupState:
    """The columns SETUP_COLUMNS."""
    request, status, attempts, progress, result, layer, *_ = row
    return SetupState(
        request=request,
        status=SetupStatus(status),
        attempts=attempts,
        progress=None if progress is None else progress_value(progress),
        result=result,
        layer=layer,
    )


def progress_text(progress: SetupProgress) -> str:
    """Progress as stored; ASCII, so any text of a command's output can be kept."""
    return json.dumps(
        [
            progress.step,
            progress.step_index,
            progress.steps_total,
            progress.started_at_ms,
            progress.last_line,
        ]
    )


def progress_value(text: str) -> SetupProgress:
    """The reverse of `progress_text`."""
    step, index, total, started, line = json.loads(text)
    return SetupProgress(
        step=step, step_index=index, steps_total=total, started_at_ms=started, last_line=line
    )


def new_session(session_id: str, new: NewSession, now_ms: int) -> dict[str, Any]:
    """The row of a session that is created."""
    return {
        "id": session_id,
        "language": new.language,
        "persistent": new.persistent,
        "created_at_ms": now_ms,
        "updated_at_ms": now_ms,
        "last_run_at_ms": None,
        "data_revision": 0,
        "allow_internet": bool(new.allow_internet),
        "allow_public": new.allow_public,
        "default_timeout_seconds": new.default_timeout_seconds,
        "cpu_count": new.cpu_count,
        "memory_mib": new.memory_mib,
        "source_id": None,
        "file_count": 0,
        "dir_count": 0,
        "total_size_bytes": 0,
        "files_revision": 0,
        "history_from": 0,
        "metadata": new.metadata,
        "data": new.data,
        "base_uid": None,
        "base_revision": None,
    }


def session_copy(
    source: Held, copy_id: str, now_ms: int, data: str | None, *, with_files: bool
) -> dict[str, Any]:
    """The row of a copy of `source`."""
    record = source.record
    row = {name: getattr(record, name) for name in _SESSION if name != "uid"}
    row |= {
        "id": copy_id,
        "created_at_ms": now_ms,
        "updated_at_ms": now_ms,
        "last_run_at_ms": None,
        "data_revision": 0,
        "source_id": record.id,
        "data": record.data if data is None else data,
        "dir_count": source.dir_count,
        "history_from": 0,
    }
    if not with_files:
        row |= {"file_count": 0, "dir_count": 0, "total_size_bytes": 0}
    row |= {"base_uid": None, "base_revision": None}
    row["files_revision"] = int(bool(row["file_count"] or row["dir_count"]))
    return row


def entry(row: Sequence[Any]) -> FileEntry:
    """The columns ENTRY_COLUMNS."""
    path, kind, blob, size, mode, mtime_ns, target, content_type, uploaded = row[:9]
    return FileEntry(
        # Checked when it was stored; checking again would be the dearest part of a long list.
        path=str.__new__(RelPath, path),
        kind=_KINDS[kind],
        blob=blob,
        size=size,
        mode=mode,
        mtime_ns=mtime_ns,
        target=None if target is None else target.decode(errors="surrogateescape"),
        content_type=content_type,
        uploaded_at_ms=uploaded,
    )


def stored(row: Sequence[Any]) -> Stored:
    """A row of `statements.entries_*`."""
    return Stored(entry(row), row[9], row[10])


def entry_row(uid: int, entry: FileEntry, since: int) -> dict[str, Any]:
    """The row of a current entry that begins with revision `since`."""
    return {
        "uid": uid,
        "since": since,
        "until": None,
        "path": str(entry.path),
        "kind": entry.kind.value,
        "blob": entry.blob,
        "size": entry.size,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
        "target": None if entry.target is None else entry.target.encode(errors="surrogateescape"),
        "content_type": entry.content_type,
        "uploaded_at_ms": entry.uploaded_at_ms,
    }


def gone_row(uid: int, path: str, since: int) -> dict[str, Any]:
    """The row that hides what the base of a copy has at `path`."""
    gone = FileEntry(path=str.__new__(RelPath, path), kind=FileKind.DIR, mode=0)
    return entry_row(uid, gone, since) | {"kind": GONE}


def storable_mtime(nanoseconds: int) -> int:
    """A program may set a time no database integer holds (utimensat takes any 64-bit second)."""
    return max(-_INT64, min(_INT64, nanoseconds))
