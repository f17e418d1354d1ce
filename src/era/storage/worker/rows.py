"""A session of the local database as the rows that a Worker keeps, and back.

Kept are the rows that say what the session *is*: earlier revisions of its tree are not among them,
so a copy that was fetched knows no differences to them.  A row is JSON text; bytes are in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, insert, select

from era.storage.records import tables
from era.storage.records.tables import STRIPES

KEPT: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (tables.sessions, tables.vms, tables.codes, tables.setups, tables.entries)
}
"""In the order in which they are put back."""
LAYER: Final = "layers"
_BYTES: Final = "base64"

Row = tuple[str, str, str]
"""Table, key in it, the row as JSON."""


def encoded(row: Mapping[str, Any]) -> str:
    """A row as JSON text."""
    return json.dumps(
        {
            name: {_BYTES: base64.b64encode(value).decode()} if isinstance(value, bytes) else value
            for name, value in row.items()
        },
        separators=(",", ":"),
    )


def decoded(text: str) -> dict[str, Any]:
    """The row in a JSON text."""
    return {
        name: base64.b64decode(value[_BYTES]) if isinstance(value, dict) else value
        for name, value in json.loads(text).items()
    }


def changed(
    connection: Connection, uid: int, touched: Iterable[tuple[str, str]]
) -> tuple[list[Row], list[tuple[str, str]]]:
    """What to keep and what to drop of the rows that a transaction touched, as they are now."""
    kept: list[Row] = []
    dropped: list[tuple[str, str]] = []
    for name, key in sorted(set(touched)):
        row = _row(connection, name, uid, key)
        if row is None:
            dropped.append((name, key))
        else:
            kept.append((name, key, encoded(row)))
        if name == tables.setups.name:
            layer = _layer(connection, row)
            if layer is None:
                dropped.append((LAYER, ""))
            else:
                kept.append((LAYER, "", encoded(layer)))
    return kept, dropped


def _row(connection: Connection, name: str, uid: int, key: str) -> dict[str, Any] | None:
    table = KEPT[name]
    query = select(table).where(table.c.uid == uid)
    if table is tables.entries:
        query = query.where(table.c.path == key, table.c.until.is_(None))
    row = connection.execute(query).mappings().first()
    return None if row is None else {name: row[name] for name in row if name != "key"}


def _layer(connection: Connection, setup: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if setup is None or setup["layer"] is None:
        return None
    query = select(tables.layers).where(tables.layers.c.key == setup["layer"])
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


def remove(connection: Connection, session_id: str) -> None:
    """Take a session out of the local database, if it is there."""
    which = tables.sessions.c.id == session_id
    uid = connection.execute(select(tables.sessions.c.uid).where(which)).scalar()
    if uid is None:
        return
    is_vm = connection.execute(select(tables.vms.c.uid).where(tables.vms.c.uid == uid)).first()
    connection.execute(delete(tables.sessions).where(which))
    connection.execute(delete(tables.entries).where(tables.entries.c.uid == uid))
    _count(connection, STRIPES if is_vm else uid % STRIPES, -1)


def put_back(connection: Connection, rows: Sequence[Row]) -> None:
    """Put a session into the local database as the Worker has it.  None of that id is there."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, _key, text in rows:
        found.setdefault(name, []).append(decoded(text))
    (session,) = found["sessions"]
    session["history_from"] = session["files_revision"]
    for name, table in KEPT.items():
        if name in found:
            connection.execute(insert(table), found[name])
    for layer in found.get(LAYER, ()):
        connection.execute(insert(tables.layers).prefix_with("OR IGNORE"), layer)
    _count(connection, STRIPES if "vms" in found else session["uid"] % STRIPES, 1)


def _count(connection: Connection, stripe: int, more: int) -> None:
    from era.storage.records import statements

    connection.execute(statements.count_sessions, {"of": stripe, "more": more})
