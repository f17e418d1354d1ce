"""Managed VMs: created within a bound, listed, changed.  The rest of them is as of sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection

from era.errors import BusyError, session_not_found
from era.ids import vm_key
from era.models import VM_NETWORKS, Network, NewSession, NewVm, Page, SessionRecord
from era.storage.records import cursors, rows
from era.storage.records import statements as sql
from era.storage.records.units import sessions

_LIST: Final = "vms"


def create(connection: Connection, vm_id: str, new: NewVm, now_ms: int, most: int) -> SessionRecord:
    """See `Records.create_vm`."""
    if connection.execute(sql.count_vm, {"most": most}).first() is None:
        raise BusyError(
            "server_busy", message=f"there are {most} VMs already", hint="Delete VMs first."
        )
    key = vm_key(vm_id)
    stored = NewSession(
        id=key,
        language=new.language,
        allow_internet=new.reaches_internet,
        cpu_count=new.cpu_count,
        memory_mib=new.memory_mib,
    )
    uid = sessions.insert(connection, rows.new_session(key, stored, now_ms))
    state = {"network_mode": new.network_mode, "persist": new.persist, "image": new.image}
    connection.execute(sql.insert_vm, {"uid": uid, **state, "stopped": False})
    return sessions.get(connection, key)


def reaches_internet(network_mode: str) -> bool:
    """Whether boxes of such a VM may reach public addresses."""
    return VM_NETWORKS[network_mode] is Network.INTERNET


def page(connection: Connection, limit: int | None, cursor: str | None) -> Page[SessionRecord]:
    """See `Records.vms`."""
    after = 0 if cursor is None else sessions.uid_in(_LIST, cursor)
    wanted = sql.EVERYTHING if limit is None else limit
    found = connection.execute(sql.vm_page, {"after": after, "limit": wanted + 1}).fetchall()
    items = tuple(rows.session(row) for row in found[:wanted])
    more = len(found) > wanted
    return Page(
        items=items,
        total=connection.execute(sql.vm_total).scalar() or 0,
        next_cursor=cursors.encode(_LIST, str(items[-1].uid)) if more and items else None,
    )


def change(
    connection: Connection,
    vm_id: str,
    now_ms: int,
    network_mode: str | None,
    stopped: bool | None,
) -> SessionRecord:
    """See `Records.change_vm`."""
    old = sessions.lock(connection, vm_key(vm_id)).record
    if old.vm is None:
        raise session_not_found()
    mode = old.vm.network_mode if network_mode is None else network_mode
    new = replace(old.vm, network_mode=mode, stopped=old.vm.stopped if stopped is None else stopped)
    state = {"network_mode": new.network_mode, "stopped": new.stopped}
    connection.execute(sql.change_vm, {"of": old.uid, **state})
    internet = reaches_internet(mode)
    row = {"of": old.uid, "updated_at_ms": now_ms, "allow_internet": internet}
    connection.execute(sql.change_vm_session, row)
    return replace(old, vm=new, updated_at_ms=now_ms, allow_internet=internet)
