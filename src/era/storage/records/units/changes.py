"""One change of a manifest: the entries that end, those that begin, and the sums over them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from era.models import FileEntry, FileKind
from era.storage.base import Quota
from era.storage.records import entry_statements as entries
from era.storage.records import rows
from era.storage.records import statements as sql
from era.storage.records.rows import Held, Stored, Tree


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums over a session's current entries.  `files` counts files and links; `bytes` adds up
    files alone: a link is no second copy of what it leads to."""

    files: int
    dirs: int
    bytes: int

    @classmethod
    def of(cls, held: Held) -> Totals:
        """The sums as stored."""
        record = held.record
        return cls(record.file_count, held.dir_count, record.total_size_bytes)

    def replacing(self, old: Stored | None, new: FileEntry | None) -> Totals:
        """The sums when `new` takes the place of `old`; None stands for no entry."""
        files, dirs, size = self.files, self.dirs, self.bytes
        for entry, sign in ((old.entry if old else None, -1), (new, 1)):
            if entry is not None:
                is_dir = entry.kind is FileKind.DIR
                files += 0 if is_dir else sign
                dirs += sign if is_dir else 0
                size += sign * entry.size if entry.kind is FileKind.FILE else 0
        return Totals(files, dirs, size)

    def excess(self, before: Totals, quota: Quota) -> str | None:
        """What is over `quota` and was not so much before: `bytes`, `files` or `directories`.

        Whoever is over already (the quota was lowered) may still change things for the better.
        """
        for name, now, then, bound in (
            ("bytes", self.bytes, before.bytes, quota.total_bytes),
            ("files", self.files, before.files, quota.count),
            ("directories", self.dirs, before.dirs, quota.count),
        ):
            if bound and now > bound and now > then:
                return name
        return None


def write(
    connection: Connection,
    held: Held,
    totals: Totals,
    ended: Sequence[Stored],
    begun: Sequence[FileEntry],
    now_ms: int,
) -> None:
    """Make the next revision: `ended` entries leave the tree, `begun` come in."""
    connection.execute(sql.count_files, counts(held, totals, now_ms))
    write_entries(connection, held, ended, begun)


def write_entries(
    connection: Connection, held: Held, ended: Sequence[Stored], begun: Sequence[FileEntry]
) -> None:
    """The rows of the next revision alone."""
    revision = held.record.files_revision + 1
    keys = [old.key for old in ended if old.key != entries.BASE_KEY]
    if keys:
        asked = {"keys": json.dumps(keys), "revision": revision}
        connection.execute(entries.close_entries, asked)
    new = [rows.entry_row(held.tree.uid, entry, revision) for entry in begun]
    if held.tree.base is not None:
        paths = {str(entry.path) for entry in begun}
        hidden = _of_base(connection, held.tree, {str(old.entry.path) for old in ended} - paths)
        new += [rows.gone_row(held.tree.uid, path, revision) for path in sorted(hidden)]
        shown = {"of": held.tree.uid, "paths": json.dumps(sorted(paths)), "revision": revision}
        connection.execute(entries.close_gone, shown)
    if new:
        connection.execute(entries.insert_entries, new)


def _of_base(connection: Connection, tree: Tree, paths: Iterable[str]) -> set[str]:
    """Those of `paths` at which the base of a copy has something."""
    asked = {
        "base": tree.base,
        "base_revision": tree.base_revision,
        "paths": json.dumps(sorted(paths)),
    }
    return set(connection.execute(entries.in_base, asked).scalars())


def counts(held: Held, totals: Totals, now_ms: int) -> dict[str, Any]:
    """The parameters of `count_files` for the next revision."""
    return {
        "of": held.record.uid,
        "updated_at_ms": now_ms,
        "file_count": totals.files,
        "dir_count": totals.dirs,
        "total_size_bytes": totals.bytes,
        "files_revision": held.record.files_revision + 1,
    }
