"""Stored code."""

from __future__ import annotations

from sqlalchemy import Connection

from era.errors import NotFoundError
from era.models import StoredCode
from era.storage.records import statements as sql
from era.storage.records.units.sessions import get as get_session
from era.storage.records.units.sessions import lock


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogatepass")


def _stored(connection: Connection, uid: int) -> StoredCode | None:
    row = connection.execute(sql.code_of, {"of": uid}).first()
    if row is None:
        return None
    return StoredCode(code=_text(row[0]), description=_text(row[1]), updated_at_ms=row[2])


def get(connection: Connection, session_id: str) -> StoredCode:
    """See `Records.code`."""
    found = _stored(connection, get_session(connection, session_id).uid)
    if found is None:
        raise NotFoundError("code_not_found")
    return found


def put(
    connection: Connection, session_id: str, code: str, description: str | None, now_ms: int
) -> StoredCode:
    """See `Records.put_code`."""
    uid = lock(connection, session_id).record.uid
    old = _stored(connection, uid)
    if description is None:
        description = old.description if old is not None else ""
    row = {"code": _bytes(code), "description": _bytes(description), "updated_at_ms": now_ms}
    if old is None:
        connection.execute(sql.insert_code, {"uid": uid, **row})
    else:
        connection.execute(sql.update_code, {"of": uid, **row})
    connection.execute(sql.touch_session, {"of": uid, "updated_at_ms": now_ms})
    return StoredCode(code=code, description=description, updated_at_ms=now_ms)


def delete(connection: Connection, session_id: str, now_ms: int) -> None:
    """See `Records.delete_code`."""
    uid = lock(connection, session_id).record.uid
    if not connection.execute(sql.delete_code, {"of": uid}).rowcount:
        raise NotFoundError("code_not_found")
    connection.execute(sql.touch_session, {"of": uid, "updated_at_ms": now_ms})
