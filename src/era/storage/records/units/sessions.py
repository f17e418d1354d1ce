"""Sessions: create, read, list, change, copy, delete."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from era.errors import ConflictError, NotFoundError, invalid_field, session_not_found
from era.models import (
    JsonText,
    NewSession,
    Page,
    SessionPatch,
    SessionRecord,
    SetupStatus,
    Unset,
)
from era.storage.records import cursors, rows
from era.storage.records import entry_statements as entries
from era.storage.records import statements as sql
from era.storage.records.tables import STRIPES
from era.storage.records.units import copies

_LIST: Final = "sessions"


def get(connection: Connection, session_id: str) -> SessionRecord:
    """See `Records.get`."""
    row = connection.execute(sql.session_by_id, {"id": session_id}).first()
    if row is None:
        raise session_not_found()
    return rows.session(row)


def lock(connection: Connection, session_id: str) -> rows.Held:
    """The session called `session_id`, held until the end of the unit."""
    if sql.has_row_locks(connection):
        connection.execute(sql.lock_by_id, {"id": session_id}).all()
    row = connection.execute(sql.session_by_id, {"id": session_id}).first()
    if row is None:
        raise session_not_found()
    return rows.held(row)


def lock_uid(connection: Connection, uid: int) -> rows.Held:
    """The session of this very `uid`, held until the end of the unit."""
    if sql.has_row_locks(connection):
        connection.execute(sql.lock_by_uid, {"of": uid}).all()
    row = connection.execute(sql.session_by_uid, {"of": uid}).first()
    if row is None:
        raise session_not_found()
    return rows.held(row)


def create(
    connection: Connection, session_id: str, new: NewSession, now_ms: int, spec: JsonText | None
) -> SessionRecord:
    """See `Records.create`."""
    uid = _insert(connection, rows.new_session(session_id, new, now_ms))
    if new.setup is not None:
        done = new.setup.empty
        setup = {
            "uid": uid,
            "request": new.setup.request,
            "status": (SetupStatus.COMPLETED if done else SetupStatus.PENDING).value,
            "attempts": 0,
            "queued_at_ms": now_ms,
            "layer": None,
            "progress": None,
            "spec": None if done else spec,
            "result": rows.NO_SETUP_RESULT if done else None,
        }
        connection.execute(sql.insert_setup, setup)
    return get(connection, session_id)


def _insert(connection: Connection, row: dict[str, Any]) -> int:
    uid = insert(connection, row)
    _count(connection, [uid], 1)
    return uid


def insert(connection: Connection, row: dict[str, Any]) -> int:
    """Add a row to the sessions without counting it; its uid.  Raises ConflictError."""
    try:
        uid: int = connection.execute(sql.insert_session, row).scalar_one()
    except IntegrityError as error:
        raise ConflictError("session_exists", id=row["id"]) from error
    return uid


def _count(connection: Connection, uids: Iterable[int], each: int) -> None:
    """Note that sessions have come (`each` 1) or gone (-1)."""
    _count_in(connection, (uid % STRIPES for uid in uids), each)


def _count_in(connection: Connection, rows_of: Iterable[int], each: int) -> None:
    stripes = Counter(rows_of)
    for stripe, number in sorted(stripes.items()):
        connection.execute(sql.count_sessions, {"of": stripe, "more": each * number})


def page(
    connection: Connection, prefix: str, limit: int | None, cursor: str | None
) -> Page[SessionRecord]:
    """See `Records.list`."""
    after = 0 if cursor is None else uid_in(_LIST, cursor)
    low_high = cursors.prefix_range(prefix)
    if low_high is None:
        return Page(items=(), total=0)
    some = {} if not prefix else dict(zip(("low", "high"), low_high, strict=True))
    wanted = sql.EVERYTHING if limit is None else limit
    found = connection.execute(
        sql.session_page_of if some else sql.session_page,
        {"after": after, "limit": wanted + 1, **some},
    ).fetchall()
    total = connection.execute(sql.session_total_of if some else sql.session_total, some).scalar()
    items = tuple(rows.session(row) for row in found[:wanted])
    more = len(found) > wanted
    return Page(
        items=items,
        total=total or 0,
        next_cursor=cursors.encode(_LIST, str(items[-1].uid)) if more and items else None,
    )


def uid_in(which: str, cursor: str) -> int:
    """The uid in a cursor of a list; raises InputError."""
    key = cursors.decode(which, cursor)
    if not (key.isascii() and key.isdecimal() and len(key) < 19):
        raise invalid_field("cursor", "a next_cursor of this list")
    return int(key)


def existing(connection: Connection, uids: tuple[int, ...]) -> frozenset[int]:
    """See `Records.existing`."""
    asked = {"uids": json.dumps(list(uids))}
    return frozenset(connection.execute(sql.existing_sessions, asked).scalars())


def patch(
    connection: Connection, session_id: str, change: SessionPatch, now_ms: int
) -> SessionRecord:
    """See `Records.patch`."""
    old = lock(connection, session_id).record
    data = _or(change.data, old.data)
    connection.execute(
        sql.patch_session,
        {
            "of": old.uid,
            "updated_at_ms": now_ms,
            "default_timeout_seconds": _or(
                change.default_timeout_seconds, old.default_timeout_seconds
            ),
            "allow_internet": _or(change.allow_internet, old.allow_internet),
            "allow_public": _or(change.allow_public, old.allow_public),
            "metadata": _or(change.metadata, old.metadata),
            "data": data,
            "data_revision": old.data_revision + (data != old.data),
        },
    )
    return get(connection, session_id)


def _or(value: Any, old: Any) -> Any:
    return old if isinstance(value, Unset) else value


def delete(connection: Connection, session_id: str) -> SessionRecord:
    """See `Records.delete`.  What refers to the session goes with it by foreign key, all but
    entries."""
    last = lock(connection, session_id).record
    connection.execute(sql.delete_session, {"of": last.uid})
    row = STRIPES if last.vm is not None else last.uid % STRIPES
    _count_in(connection, [row], -1)
    copies.drop_trees(connection, [last.uid])
    return last


def delete_all(connection: Connection, prefix: str) -> tuple[SessionRecord, ...]:
    """See `Records.delete_all`."""
    found = page(connection, prefix, None, None).items
    uids = json.dumps([session.uid for session in found])
    gone = set(connection.execute(sql.delete_sessions, {"uids": uids}).scalars())
    _count(connection, gone, -1)
    copies.drop_trees(connection, gone)
    return tuple(session for session in found if session.uid in gone)


def duplicate(
    connection: Connection,
    source_id: str,
    copy_id: str,
    now_ms: int,
    data: JsonText | None,
    include_files: bool | None,
) -> SessionRecord:
    """See `Records.duplicate`."""
    source = lock(connection, source_id)
    with_files = source.record.persistent if include_files is None else include_files
    row = rows.session_copy(source, copy_id, now_ms, data, with_files=with_files)
    base = copies.base_for(connection, source) if row["files_revision"] else None
    if base is not None:
        row |= {"base_uid": base.base, "base_revision": base.base_revision}
    both = {"of": source.record.uid, "copy_uid": _insert(connection, row)}
    if base is not None and base.base != source.tree.uid:
        copies.copy_own(connection, **both)
    connection.execute(sql.copy_code, both)
    _copy_setup(connection, **both, now_ms=now_ms)
    return get(connection, copy_id)


def settle_last_copy(connection: Connection) -> bool:
    """Let one copy that is the last of a session that is gone take over what it sees; whether there
    was one."""
    uid = connection.execute(entries.last_copy).scalar()
    if uid is None:
        return False
    try:
        held = lock_uid(connection, uid)
    except NotFoundError:  # deleted meanwhile
        return True
    if held.tree.base is not None:
        copies.settle(connection, held.tree)
    copies.drop_orphans(connection)
    return True


def _copy_setup(connection: Connection, of: int, copy_uid: int, now_ms: int) -> None:
    row = connection.execute(sql.setup_of, {"of": of}).mappings().first()
    if row is None:
        return
    setup = {**row, "uid": copy_uid}
    if not SetupStatus(row["status"]).finished:
        setup |= {"status": "pending", "attempts": 0, "progress": None, "queued_at_ms": now_ms}
    connection.execute(sql.insert_setup, setup)
