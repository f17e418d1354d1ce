"""The manifest: what a session's workspace holds, now and at earlier revisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, CursorResult

from era.errors import InputError, TooLargeError, file_not_found, session_not_found
from era.models import FileEntry, FileKind, Page
from era.relpath import RelPath
from era.storage.base import ManifestDiff, Quota
from era.storage.links import Walk, above, all_above, root_of, walk
from era.storage.records import cursors, rows
from era.storage.records import entry_statements as entries
from era.storage.records import statements as sql
from era.storage.records.entry_statements import Twin
from era.storage.records.rows import Held, Stored, Tree
from era.storage.records.units.changes import Totals, write
from era.storage.records.units.sessions import lock

_LIST: Final = "files"


def ask(
    connection: Connection, question: Twin, tree: Tree, more: Mapping[str, Any]
) -> CursorResult[Any]:
    """The answer to a question about a session's tree."""
    if tree.base is None:
        return connection.execute(question.plain, {"of": tree.uid, **more})
    asked = {"of": tree.uid, "base": tree.base, "base_revision": tree.base_revision, **more}
    return connection.execute(question.copy, asked)


def at(connection: Connection, tree: Tree, paths: Iterable[str]) -> dict[str, Stored]:
    """The current entries at `paths`, by path; a path without one is left out."""
    # A link may name what no stored path is, and no database takes as text.
    asked = json.dumps([path for path in paths if cursors.is_text(path)])
    found = ask(connection, entries.entries_at, tree, {"paths": asked}).fetchall()
    return {row[0]: rows.stored(row) for row in found}


# --- reading ------------------------------------------------------------------------------------


def page(
    connection: Connection, session_id: str, prefix: str, limit: int | None, cursor: str | None
) -> Page[FileEntry]:
    """See `Records.files`."""
    tree, count, size = _head(connection, session_id)
    after = "" if cursor is None else cursors.decode(_LIST, cursor)
    low_high = cursors.prefix_range(prefix)
    if low_high is None:
        return Page(items=(), total=0)
    low, high = low_high
    wanted = sql.EVERYTHING if limit is None else limit
    part = {"low": low, "high": high}
    asked = {**part, "after": after, "limit": wanted + 1}
    found = ask(connection, entries.file_page, tree, asked).fetchall()
    if prefix:
        totals = ask(connection, entries.file_totals, tree, part).fetchall()
        count, size = (sum(int(row[at]) for row in totals) for at in (0, 1))
    root = root_of(session_id)
    items = with_link_sizes(connection, tree, root, [rows.entry(row) for row in found[:wanted]])
    more = len(found) > wanted
    return Page(
        items=tuple(items),
        total=count,
        total_size_bytes=size,
        next_cursor=cursors.encode(_LIST, items[-1].path) if more and items else None,
    )


def _head(connection: Connection, session_id: str) -> tuple[Tree, int, int]:
    row = connection.execute(sql.tree_by_id, {"id": session_id}).first()
    if row is None:
        raise session_not_found()
    return Tree(*row[:3]), row[3], row[4]


def file(connection: Connection, session_id: str, path: RelPath) -> FileEntry:
    """See `Records.file`."""
    tree, _, _ = _head(connection, session_id)
    row = ask(connection, entries.entry_at, tree, {"at": str(path)}).first()
    if row is None:
        raise file_not_found()
    return with_link_sizes(connection, tree, root_of(session_id), [rows.entry(row)])[0]


def with_link_sizes(
    connection: Connection, tree: Tree, root: str, listed: list[FileEntry]
) -> list[FileEntry]:
    """`listed`, each link with the size of the file it leads to.  All links take their next step
    together, so their number costs no further statements."""
    seen: dict[str, FileEntry | None] = {entry.path: entry for entry in listed}
    sizes: dict[str, int] = {}
    walks: list[tuple[FileEntry, Walk, str]] = []
    for entry in listed:
        if entry.kind is FileKind.LINK:
            _step(entry, walk(entry, root), None, walks, sizes)
    while walks:
        unknown = {path for _, _, path in walks} - seen.keys()
        found = at(connection, tree, unknown) if unknown else {}
        seen.update({path: found[path].entry if path in found else None for path in unknown})
        waiting, walks = walks, []
        for link, steps, path in waiting:
            _step(link, steps, seen[path], walks, sizes)
    return [
        replace(entry, size=sizes[entry.path]) if entry.path in sizes else entry for entry in listed
    ]


def _step(
    link: FileEntry,
    steps: Walk,
    answer: FileEntry | None,
    walks: list[tuple[FileEntry, Walk, str]],
    sizes: dict[str, int],
) -> None:
    """Take one step of a walk: note where it waits, or the size at its end."""
    try:
        walks.append((link, steps, steps.send(answer)))
    except StopIteration as end:
        sizes[link.path] = 0 if end.value is None else end.value.size


# --- single changes -----------------------------------------------------------------------------


def put(
    connection: Connection, session_id: str, entry: FileEntry, quota: Quota, now_ms: int
) -> FileEntry:
    """See `Records.put_file`."""
    held = lock(connection, session_id)
    tree, path = held.tree, entry.path
    near = at(connection, tree, [path, *above(path)])
    old = near.pop(path, None)
    if any(parent.entry.kind is not FileKind.DIR for parent in near.values()):
        raise InputError("invalid_path", details="a parent of the path is no directory")
    if _is_directory(connection, tree, path, old):
        raise InputError("invalid_path", details="there is a directory at the path")
    kept = old is not None and old.entry.kind is FileKind.FILE
    new = _stored_form(replace(entry, mode=old.entry.mode) if kept and old else entry, now_ms)
    totals = Totals.of(held).replacing(old, new)
    refuse_over_quota(held, totals, quota)
    write(connection, held, totals, [old] if old else [], [new], now_ms)
    return new


def _stored_form(entry: FileEntry, now_ms: int) -> FileEntry:
    return replace(
        entry,
        mode=entry.mode & 0o777,
        mtime_ns=rows.storable_mtime(entry.mtime_ns),
        uploaded_at_ms=now_ms,
    )


def _is_directory(connection: Connection, tree: Tree, path: RelPath, entry: Stored | None) -> bool:
    if entry is not None:
        return entry.entry.kind is FileKind.DIR
    return any(ask(connection, entries.has_between, tree, _below(path)).scalars())


def _below(path: str) -> dict[str, str]:
    # "/" + 1 == "0" in byte order.
    return {"low": path + "/", "high": path + "0"}


def refuse_over_quota(held: Held, totals: Totals, quota: Quota) -> None:
    """Raise TooLargeError `quota_exceeded` when `totals` may not be."""
    limit = totals.excess(Totals.of(held), quota)
    if limit is not None:
        text = None if limit == "bytes" else f"session files exceed {quota.count} {limit}"
        bound = quota.total_bytes if limit == "bytes" else quota.count
        raise TooLargeError("quota_exceeded", bound, text)


def delete(
    connection: Connection, session_id: str, path: RelPath, recursive: bool, now_ms: int
) -> None:
    """See `Records.delete_file`."""
    held = lock(connection, session_id)
    tree = held.tree
    gone = list(at(connection, tree, [path]).values())
    if not recursive:
        if _is_directory(connection, tree, path, gone[0] if gone else None):
            raise InputError(
                "invalid_path",
                details="there is a directory at the path",
                hint="add ?recursive=1 to delete a directory with all below it",
            )
    elif not gone or gone[0].entry.kind is FileKind.DIR:
        found = ask(connection, entries.entries_between, tree, _below(path))
        gone += [rows.stored(row) for row in found]
    if not gone:
        raise file_not_found()
    totals = Totals.of(held)
    for old in gone:
        totals = totals.replacing(old, None)
    write(connection, held, totals, gone, [], now_ms)


# --- history ------------------------------------------------------------------------------------


def diff(connection: Connection, uid: int, since: int) -> ManifestDiff | None:
    """See `Records.manifest_diff`."""
    row = connection.execute(sql.session_by_uid, {"of": uid}).first()
    if row is None:
        raise session_not_found()
    held = rows.held(row)
    head = held.record.files_revision
    if since > head or (since and since < held.history_from):
        return None
    asked, tree = {"revision": since}, held.tree
    written = [rows.entry(row) for row in ask(connection, entries.written_since, tree, asked)]
    gone: list[FileEntry] = []
    if since:
        gone = [rows.entry(row) for row in ask(connection, entries.gone_since, tree, asked)]
    return ManifestDiff(
        revision=head, removed=_removed(connection, tree, gone), written=tuple(written)
    )


def _removed(connection: Connection, tree: Tree, gone: list[FileEntry]) -> tuple[RelPath, ...]:
    """What of `gone`, and of the directories above, a tree must lose; deepest first."""
    if not gone:
        return ()
    directories = all_above(entry.path for entry in gone)
    now = at(connection, tree, {*directories, *(entry.path for entry in gone)})
    lost: set[str] = set()
    for entry in gone:
        if entry.kind is FileKind.DIR:
            directories.add(entry.path)
        elif entry.path not in now or now[entry.path].entry.kind is not entry.kind:
            lost.add(entry.path)
    doubtful = {path for path in directories if path not in now}
    lost |= doubtful - _occupied(connection, tree, doubtful)
    lost |= {path for path in directories & now.keys() if now[path].entry.kind is not FileKind.DIR}
    return tuple(str.__new__(RelPath, path) for path in sorted(lost, reverse=True))


def _occupied(connection: Connection, tree: Tree, paths: set[str]) -> set[str]:
    asked = {"paths": json.dumps(sorted(paths))}
    return set(ask(connection, entries.occupied, tree, asked).scalars())


def with_history(connection: Connection) -> tuple[int, ...]:
    """Sessions that have closed entries."""
    return tuple(connection.execute(entries.sessions_with_history).scalars())


def prune(connection: Connection, keep: Mapping[int, int]) -> int:
    """Forget entries that ended at or before `keep[uid]`; how many.  See `Records.prune_history`."""
    total = 0
    for uid, revision in keep.items():
        upto = {"of": uid, "revision": revision}
        ends = connection.execute(entries.forget_entries, upto).scalars().all()
        if ends:
            connection.execute(entries.raise_history, {"of": uid, "history_from": max(ends)})
            total += len(ends)
    return total


def unreferenced(connection: Connection, blobs: tuple[str, ...]) -> tuple[str, ...]:
    """See `Records.unreferenced`."""
    asked = dict.fromkeys(blobs)
    found = connection.execute(sql.unreferenced, {"blobs": json.dumps(list(asked))}).scalars()
    free = set(found)
    return tuple(blob for blob in asked if blob in free)
