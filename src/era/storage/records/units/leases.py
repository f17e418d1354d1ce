"""Which node serves a session."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from era.errors import InternalError, session_not_found
from era.storage.leases import Activity, Holder, Lease, Node
from era.storage.records import cursors
from era.storage.records import node_statements as sql


def take(connection: Connection, session_id: str, node: Node, ttl_ms: int) -> Lease | Holder:
    """See `LeaseStore.take_lease`."""
    uid = connection.execute(sql.lease_session, {"id": session_id}).scalar_one_or_none()
    if uid is None:
        raise session_not_found()
    asked = {"of": uid, "node": node.name, "at_address": node.address, "ttl_ms": ttl_ms}
    epoch = connection.execute(sql.take_lease, asked).scalar_one_or_none()
    if epoch is not None:
        return Lease(uid=uid, epoch=epoch)
    row = connection.execute(sql.lease_holder, {"of": uid}).first()
    if row is not None:
        return _holder(row)
    connection.execute(sql.insert_lease, asked)
    return Lease(uid=uid, epoch=1)


def _holder(row: Sequence[object]) -> Holder:
    uid, address, running, queued = row
    assert isinstance(uid, int)
    assert isinstance(queued, int)
    return Holder(uid=uid, address=str(address), running=bool(running), queued=queued)


def renew(connection: Connection, node: Node, ttl_ms: int) -> Mapping[int, int]:
    """See `LeaseStore.renew_leases`."""
    found = connection.execute(sql.renew_leases, {"node": node.name, "ttl_ms": ttl_ms}).all()
    return {row[0]: row[1] for row in found}


def release(connection: Connection, node: Node, uids: Sequence[int]) -> None:
    """See `LeaseStore.release_leases`."""
    connection.execute(sql.release_leases, {"node": node.name, "uids": json.dumps(list(uids))})


def release_nodes(connection: Connection, prefix: str) -> None:
    """See `LeaseStore.release_nodes`."""
    low, high = cursors.prefix_range(prefix) or ("", "")
    connection.execute(sql.release_nodes, {"low": low, "high": high})


def tell(connection: Connection, node: Node, activity: Mapping[int, Activity]) -> None:
    """See `LeaseStore.tell`."""
    connection.execute(
        sql.tell,
        [
            {"of": uid, "node": node.name, "running": now.running, "queued": now.queued}
            for uid, now in sorted(activity.items())
        ],
    )


def holders(connection: Connection, node: Node, session_id: str | None) -> tuple[Holder, ...]:
    """See `LeaseStore.holders`."""
    asked = {"node": node.name}
    if session_id is None:
        found = connection.execute(sql.holders, asked).all()
    else:
        found = connection.execute(sql.holders_of, {**asked, "id": session_id}).all()
    return tuple(map(_holder, found))


def fence(connection: Connection, uid: int, epoch: int) -> None:
    """Let the unit go on only if the session's lease has this epoch, until the unit's end.

    Raises:
        InternalError: `execution_failed`.
    """
    if connection.execute(sql.fence, {"of": uid}).scalar_one_or_none() != epoch:
        raise InternalError(
            "execution_failed", message="another node has taken the session over; nothing was kept"
        )
