"""Setups as a queue of durable jobs, and the layers they leave."""

from __future__ import annotations

import json

from sqlalchemy import Connection

from era.errors import ConflictError, NotFoundError
from era.models import JsonText, SessionRecord, SetupProgress, SetupState, SetupStatus
from era.storage.base import LayerRecord, SetupJob
from era.storage.records import cursors, rows
from era.storage.records import statements as sql
from era.storage.records.units.sessions import get as get_session
from era.storage.records.units.sessions import lock, lock_uid


def claim(connection: Connection, owner: str, ttl_ms: int | None) -> SetupJob | None:
    """See `Records.claim_setup`."""
    row = connection.execute(sql.oldest_pending).first()
    if row is None:
        return None
    uid, session_id, language, spec, attempts = row
    started = {"of": uid, "owner": owner, "ttl_ms": ttl_ms}
    epoch = connection.execute(sql.start_setup, started).scalar_one()
    return SetupJob(
        uid=uid,
        session_id=session_id,
        language=language,
        spec=spec or "{}",
        attempts=attempts + 1,
        epoch=epoch,
    )


def renew(connection: Connection, owner: str, uids: tuple[int, ...], ttl_ms: int) -> frozenset[int]:
    """See `Records.renew_setups`."""
    asked = {"of_node": owner, "uids": json.dumps(list(uids)), "ttl_ms": ttl_ms}
    return frozenset(connection.execute(sql.renew_setups, asked).scalars())


def reset_running(
    connection: Connection, max_attempts: int, result: JsonText, owner: str | None
) -> int:
    """See `Records.reset_running_setups`."""
    low_high = None if owner is None else cursors.prefix_range(owner)
    low, high = low_high or ("", "")
    whose = {"low": low, "high": high}
    given_up = {**whose, "max_attempts": max_attempts, "result": result}
    connection.execute(sql.give_up_setups, given_up)
    return connection.execute(sql.resume_setups, whose).rowcount


def progress(connection: Connection, uid: int, value: SetupProgress) -> None:
    """See `Records.setup_progress`."""
    text = rows.progress_text(value)
    if not connection.execute(sql.progress_setup, {"of": uid, "progress": text}).rowcount:
        lock_uid(connection, uid)


def finish(
    connection: Connection,
    uid: int,
    status: SetupStatus,
    result: JsonText,
    layer: str | None,
    epoch: int | None,
) -> SetupState:
    """See `Records.finish_setup`."""
    lock_uid(connection, uid)
    if epoch is not None:
        now = connection.execute(sql.hold_setup, {"of": uid}).first()
        if now is None or (now[0], now[1]) != (SetupStatus.RUNNING.value, epoch):
            raise ConflictError("setup_pending", details="another node does it now")
        if layer is not None and not _hold_layer(connection, layer):
            raise NotFoundError("not_found", "the layer was removed meanwhile")
    connection.execute(
        sql.finish_setup,
        {"of": uid, "status": status.value, "result": result, "layer": layer},
    )
    row = connection.execute(sql.setup_of, {"of": uid}).first()
    if row is None:
        raise NotFoundError("not_found")
    return rows.setup_state(row)


def _hold_layer(connection: Connection, key: str) -> bool:
    """Keep a layer from being removed until the end of the unit; whether it is there."""
    return connection.execute(sql.hold_layer, {"key": key}).first() is not None


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
