"""Setups as a queue of durable jobs, and the layers they leave."""

from __future__ import annotations

from sqlalchemy import Connection

from era.errors import ConflictError, NotFoundError
from era.models import JsonText, SessionRecord, SetupProgress, SetupState, SetupStatus
from era.storage.base import LayerRecord, SetupJob
from era.storage.records import rows
from era.storage.records import statements as sql
from era.storage.records.units.sessions import get as get_session
from era.storage.records.units.sessions import lock, lock_uid


def claim(connection: Connection) -> SetupJob | None:
    """See `Records.claim_setup`."""
    row = connection.execute(sql.oldest_pending).first()
    if row is None:
        return None
    uid, session_id, language, spec, attempts = row
    connection.execute(sql.start_setup, {"of": uid})
    return SetupJob(
        uid=uid,
        session_id=session_id,
        language=language,
        spec=spec or "{}",
        attempts=attempts + 1,
    )


def reset_running(connection: Connection, max_attempts: int, result: JsonText) -> int:
    """See `Records.reset_running_setups`."""
    connection.execute(sql.give_up_setups, {"max_attempts": max_attempts, "result": result})
    return connection.execute(sql.resume_setups).rowcount


def progress(connection: Connection, uid: int, value: SetupProgress) -> None:
    """See `Records.setup_progress`."""
    text = rows.progress_text(value)
    if not connection.execute(sql.progress_setup, {"of": uid, "progress": text}).rowcount:
        lock_uid(connection, uid)


def finish(
    connection: Connection, uid: int, status: SetupStatus, result: JsonText, layer: str | None
) -> SetupState:
    """See `Records.finish_setup`."""
    lock_uid(connection, uid)
    if layer is not None and sql.has_row_locks(connection):
        connection.execute(sql.hold_layer, {"key": layer}).all()
    connection.execute(
        sql.finish_setup,
        {"of": uid, "status": status.value, "result": result, "layer": layer},
    )
    row = connection.execute(sql.setup_of, {"of": uid}).first()
    if row is None:
        raise NotFoundError("not_found")
    return rows.setup_state(row)


def restart(
    connection: Connection, session_id: str, request: JsonText, spec: JsonText, now_ms: int
) -> SessionRecord:
    """See `Records.restart_setup`."""
    record = lock(connection, session_id).record
    row = {"request": request, "spec": spec, "queued_at_ms": now_ms}
    if record.setup is None:
        fresh = {"status": "pending", "attempts": 0, "layer": None, "progress": None}
        connection.execute(sql.insert_setup, {"uid": record.uid, **fresh, "result": None, **row})
    elif not record.setup.status.finished:
        raise ConflictError("setup_pending", setup_status=record.setup.status.value)
    else:
        connection.execute(sql.requeue_setup, {"of": record.uid, **row})
    return get_session(connection, session_id)


def _layer(connection: Connection, key: str) -> LayerRecord | None:
    row = connection.execute(sql.layer_by_key, {"key": key}).mappings().first()
    return None if row is None else LayerRecord(**row)


def layer(connection: Connection, key: str) -> LayerRecord | None:
    """See `Records.layer`."""
    return _layer(connection, key)


def put_layer(connection: Connection, new: LayerRecord) -> LayerRecord:
    """See `Records.put_layer`."""
    found = _layer(connection, new.key)
    if found is not None:
        return found
    connection.execute(
        sql.insert_layer,
        {name: getattr(new, name) for name in ("key", "blob", "size", "created_at_ms", "result")},
    )
    return new


def layer_keys(connection: Connection, used: bool) -> frozenset[str]:
    """See `Records.layer_keys`."""
    query = sql.layer_keys_used if used else sql.layer_keys
    return frozenset(connection.execute(query).scalars())


def delete_layer(connection: Connection, key: str) -> LayerRecord | None:
    """See `Records.delete_layer`."""
    if sql.has_row_locks(connection):
        connection.execute(sql.lock_layer, {"key": key}).all()
    row = connection.execute(sql.unused_layer, {"key": key}).mappings().first()
    if row is None:
        return None
    connection.execute(sql.delete_layer, {"key": key})
    return LayerRecord(**row)
