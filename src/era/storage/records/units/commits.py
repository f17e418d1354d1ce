"""The commit of a run: from what the run left behind to what the manifest becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from era.models import FileEntry, FileKind, SessionRecord
from era.relpath import RelPath
from era.storage.base import Committed, Quota, RunCommit
from era.storage.links import all_above, nearest_above
from era.storage.records import entry_statements as entries
from era.storage.records import rows
from era.storage.records import statements as sql
from era.storage.records.rows import Held, Stored, Tree
from era.storage.records.units import files
from era.storage.records.units.changes import Totals, counts, write_entries
from era.storage.records.units.leases import fence
from era.storage.records.units.sessions import lock_uid


@dataclass(slots=True)
class Plan:
    """The part of a manifest that a commit touches, before and after.

    `old` holds the current entries it looked at; `ended` the paths among them that end, `begun` the
    entries that begin; `quiet` the begun paths that differ in nothing a reader would call a change.
    """

    old: dict[str, Stored]
    ended: set[str] = field(default_factory=set)
    begun: dict[str, FileEntry] = field(default_factory=dict)
    quiet: set[str] = field(default_factory=set)

    def remove(self, path: str) -> None:
        """Let no entry be at `path`."""
        self.begun.pop(path, None)
        if path in self.old:
            self.ended.add(path)

    def kind_at(self, path: str) -> FileKind | None:
        """The kind of the entry at `path` as planned so far."""
        if path in self.begun:
            return self.begun[path].kind
        if path in self.old and path not in self.ended:
            return self.old[path].entry.kind
        return None

    def put(self, entry: FileEntry) -> None:
        """Let `entry` be at its path; where it equals the old one, the old one stays."""
        path = entry.path
        self.remove(path)
        self.quiet.discard(path)
        old = self.old[path].entry if path in self.old else None
        if old is not None and _same(old, entry):
            if old.mtime_ns == entry.mtime_ns:
                self.ended.discard(path)
                return
            entry = replace(old, mtime_ns=entry.mtime_ns)
            self.quiet.add(path)
        elif old is not None and old.blob == entry.blob and entry.content_type is None:
            entry = replace(entry, content_type=old.content_type)
        self.begun[path] = entry

    @property
    def empty(self) -> bool:
        """Whether the manifest stays as it is."""
        return not self.ended and not self.begun

    def totals(self, totals: Totals) -> Totals:
        """The sums after this plan, from those before."""
        for path in self.ended:
            totals = totals.replacing(self.old[path], None)
        for entry in self.begun.values():
            totals = totals.replacing(None, entry)
        return totals

    @property
    def modified(self) -> tuple[RelPath, ...]:
        """Files and links added or changed."""
        return tuple(
            sorted(
                entry.path
                for path, entry in self.begun.items()
                if entry.kind is not FileKind.DIR and path not in self.quiet
            )
        )

    @property
    def deleted(self) -> tuple[RelPath, ...]:
        """Files and links that are no more."""
        return tuple(
            sorted(
                old.entry.path
                for path in self.ended
                if (old := self.old[path]).entry.kind is not FileKind.DIR
                and self.kind_at(path) in (None, FileKind.DIR)
            )
        )


def _same(old: FileEntry, new: FileEntry) -> bool:
    return (
        old.kind is new.kind
        and old.blob == new.blob
        and old.mode == new.mode
        and old.target == new.target
    )


def commit_run(connection: Connection, commit: RunCommit, quota: Quota) -> Committed:
    """See `Records.commit_run`."""
    held = lock_uid(connection, commit.uid)
    if commit.epoch is not None:
        fence(connection, commit.uid, commit.epoch)
    plan = _planned(connection, held.tree, commit)
    before = Totals.of(held)
    after = plan.totals(before)
    over = after.excess(before, quota) is not None
    if over:
        plan, after = Plan({}), before
    session = _store(connection, held, commit, plan, after)
    return Committed(
        session=session,
        modified=plan.modified,
        deleted=plan.deleted,
        files_error="quota_exceeded" if over else None,
    )


def _planned(connection: Connection, tree: Tree, commit: RunCommit) -> Plan:
    """What the commit does to the manifest: first the removals, then the writes, parents first.

    Whatever stands where a written entry, or a directory above it, has to be gives way.
    """
    changes = commit.changes
    if not changes.removed and not changes.written:
        return Plan({})
    written = [_stored_form(entry, commit.finished_at_ms) for entry in changes.written]
    parents = all_above(entry.path for entry in written)
    known = files.at(
        connection, tree, {*parents, *changes.removed, *(entry.path for entry in written)}
    )
    under = _below(connection, tree, {*changes.removed, *_new_leaves(written, known)})
    plan = Plan(known | {path: old for group in under.values() for path, old in group.items()})
    for path in changes.removed:
        for old in (known.get(path), *under.get(path, {}).values()):
            if old is not None and old.since <= commit.snapshot_revision:
                plan.remove(old.entry.path)
    clear: set[str] = set()  # what is above a path comes before it, so these stay directories
    for entry in sorted(written, key=lambda entry: entry.path):
        for parent in nearest_above(entry.path, clear):
            clear.add(parent)
            if plan.kind_at(parent) not in (None, FileKind.DIR):
                plan.remove(parent)
        if entry.kind is not FileKind.DIR:
            for path_below in under.get(entry.path, ()):
                plan.remove(path_below)
        plan.put(entry)
    return plan


def _stored_form(entry: FileEntry, now_ms: int) -> FileEntry:
    return replace(
        entry,
        size=entry.size if entry.kind is FileKind.FILE else 0,
        mode=entry.mode & 0o777,
        mtime_ns=rows.storable_mtime(entry.mtime_ns),
        uploaded_at_ms=now_ms,
    )


def _new_leaves(written: Iterable[FileEntry], known: dict[str, Stored]) -> set[RelPath]:
    """Paths that become a file or link and were none: only there can be something below."""
    return {
        entry.path
        for entry in written
        if entry.kind is not FileKind.DIR
        and (entry.path not in known or known[entry.path].entry.kind is FileKind.DIR)
    }


def _below(connection: Connection, tree: Tree, paths: set[RelPath]) -> dict[str, dict[str, Stored]]:
    """The current entries below each of `paths`: by that path, then by their own."""
    found: dict[str, dict[str, Stored]] = {}
    if paths:
        asked = {"paths": json.dumps(sorted(paths))}
        for row in files.ask(connection, entries.entries_below, tree, asked):
            if row[0] is not None:
                found.setdefault(row[-1], {})[row[0]] = rows.stored(row)
    return found


def _store(
    connection: Connection, held: Held, commit: RunCommit, plan: Plan, totals: Totals
) -> SessionRecord:
    """Write the rows; the session as it is afterwards."""
    row = counts(held, totals, commit.finished_at_ms)
    row["last_run_at_ms"] = commit.finished_at_ms
    if plan.empty:
        row["files_revision"] = held.record.files_revision
    else:
        write_entries(
            connection, held, [plan.old[path] for path in plan.ended], list(plan.begun.values())
        )
    if commit.data is None:
        connection.execute(sql.commit_session, row)
    else:
        row["data"] = commit.data
        row["data_revision"] = held.record.data_revision + (commit.data != held.record.data)
        connection.execute(sql.commit_session_data, row)
    del row["of"], row["dir_count"]
    return replace(held.record, **row)
