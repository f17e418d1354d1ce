"""Every statement on the tables, built once: running one only binds values.

Parameters: `of` is a session's uid and `at` a path (names that are no columns: in an UPDATE a
parameter named like a column would set it).  A list of values travels as one JSON array (`listed`),
so the text of a statement does not depend on how many there are.  Where the database has row locks a
unit that changes a session executes `lock_by_*` first and reads in a statement after it, which sees
what the one before it in the line has committed; SQLite's writers are alone anyway.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    TableValuedAlias,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from era.ids import VM_KEYS
from era.storage.records.clock import db_now_ms
from era.storage.records.tables import (
    STRIPES,
    codes,
    counts,
    entries,
    layers,
    sessions,
    setups,
    vms,
)

EVERYTHING: Final = 2**62
"""A LIMIT that limits nothing; leaves room for one more."""


class _JsonElements(GenericFunction[str]):
    """The elements of a JSON array of strings or numbers, one row each, as text or as stored."""

    name = "json_each"
    inherit_cache = True


@compiles(_JsonElements, "postgresql")
def _json_elements_postgresql(element: _JsonElements, compiler: SQLCompiler, **kw: Any) -> str:
    inner = compiler.process(element.clauses.clauses[0], **kw)
    return f"json_array_elements_text(CAST({inner} AS json))"


def has_row_locks(connection: Connection) -> bool:
    """Whether writers run side by side, so that rows have to be locked."""
    return connection.dialect.name != "sqlite"


def listed(name: str, alias: str = "listed") -> TableValuedAlias:
    """The values of the JSON array bound as `name`, as a table with the column `value`."""
    return _JsonElements(bindparam(name, type_=Text)).table_valued(
        Column("value", Text), name=alias
    )


def param(name: str) -> ColumnElement[Any]:
    """A value that is bound when the statement runs."""
    return bindparam(name)


def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the column is one of the values of the JSON array bound as `name`."""
    values = listed(name)
    value: ColumnElement[Any] = values.c.value
    if isinstance(column.type, BigInteger):
        value = cast(value, BigInteger)
    return column.in_(select(value))


# --- sessions -----------------------------------------------------------------------------------

HIDDEN: Final = ("dir_count", "history_from", "base_uid", "base_revision")
"""What a client never sees of a session."""
SESSION_COLUMNS: Final = tuple(column for column in sessions.c if column.name not in HIDDEN)
SETUP_COLUMNS: Final = (
    setups.c.request,
    setups.c.status,
    setups.c.attempts,
    setups.c.progress,
    setups.c.result,
    setups.c.layer,
)
VM_COLUMNS: Final = (vms.c.network_mode, vms.c.persist, vms.c.image, vms.c.stopped)
_has_code: Final = exists().where(codes.c.uid == sessions.c.uid)
_full: Final = select(
    *SESSION_COLUMNS,
    *SETUP_COLUMNS,
    *VM_COLUMNS,
    _has_code,
    *(sessions.c[name] for name in HIDDEN),
).select_from(
    sessions.outerjoin(setups, setups.c.uid == sessions.c.uid).outerjoin(
        vms, vms.c.uid == sessions.c.uid
    )
)
_id_is: Final = sessions.c.id == param("id")
_uid_is: Final = sessions.c.uid == param("of")
# Managed VMs are no sessions: their keys lie beside all ids of sessions.
_no_vm: Final = or_(
    sessions.c.id < literal_column(f"'{VM_KEYS[0]}'"),
    sessions.c.id >= literal_column(f"'{VM_KEYS[1]}'"),
)
_id_range: Final = and_(sessions.c.id >= param("low"), sessions.c.id < param("high"))


def _page(query: Select[Any]) -> Select[Any]:
    return (
        query.where(sessions.c.uid > param("after")).order_by(sessions.c.uid).limit(param("limit"))
    )


session_by_id: Final = _full.where(_id_is)
session_by_uid: Final = _full.where(_uid_is)
_lock: Final = select(sessions.c.uid).with_for_update()
lock_by_id: Final = _lock.where(_id_is)
lock_by_uid: Final = _lock.where(_uid_is)
tree_by_id: Final = select(
    sessions.c.uid,
    sessions.c.base_uid,
    sessions.c.base_revision,
    sessions.c.file_count,
    sessions.c.total_size_bytes,
).where(_id_is)
session_page: Final = _page(_full.where(_no_vm))
# "+ 0" takes the choice from SQLite's planner: a prefix is the narrower condition.
session_page_of: Final = (
    _full.where(_id_range, _no_vm, sessions.c.uid + 0 > param("after"))
    .order_by(sessions.c.uid + 0)
    .limit(param("limit"))
)
session_total: Final = select(
    cast(func.coalesce(func.sum(counts.c.sessions), 0), BigInteger)
).where(counts.c.stripe < STRIPES)
session_total_of: Final = select(func.count()).select_from(sessions).where(_id_range, _no_vm)
count_sessions: Final = (
    update(counts)
    .where(counts.c.stripe == param("of"))
    .values(sessions=counts.c.sessions + param("more"))
)
_own_vms: Final = _full.where(vms.c.uid != null())
vm_page: Final = (
    _own_vms.where(vms.c.uid > param("after")).order_by(vms.c.uid).limit(param("limit"))
)
vm_total: Final = select(counts.c.sessions).where(counts.c.stripe == STRIPES)
# One more, if that is not too many; writers wait for each other at this row.
count_vm: Final = (
    update(counts)
    .where(counts.c.stripe == STRIPES, counts.c.sessions < param("most"))
    .values(sessions=counts.c.sessions + 1)
    .returning(counts.c.sessions)
)
insert_vm: Final = insert(vms)
change_vm: Final = (
    update(vms)
    .where(vms.c.uid == param("of"))
    .values(network_mode=param("network_mode"), stopped=param("stopped"))
)
change_vm_session: Final = (
    update(sessions)
    .where(_uid_is)
    .values(updated_at_ms=param("updated_at_ms"), allow_internet=param("allow_internet"))
)
existing_sessions: Final = select(sessions.c.uid).where(among(sessions.c.uid, "uids"))
insert_session: Final = insert(sessions).returning(sessions.c.uid)
delete_session: Final = delete(sessions).where(_uid_is)
delete_sessions: Final = (
    delete(sessions).where(among(sessions.c.uid, "uids")).returning(sessions.c.uid)
)

patch_session: Final = (
    update(sessions)
    .where(_uid_is)
    .values(
        {
            name: param(name)
            for name in (
                "updated_at_ms",
                "default_timeout_seconds",
                "allow_internet",
                "allow_public",
                "metadata",
                "data",
                "data_revision",
            )
        }
    )
)
touch_session: Final = update(sessions).where(_uid_is).values(updated_at_ms=param("updated_at_ms"))
_counts: Final = {
    name: param(name)
    for name in (
        "updated_at_ms",
        "file_count",
        "dir_count",
        "total_size_bytes",
        "files_revision",
    )
}
count_files: Final = update(sessions).where(_uid_is).values(_counts)
commit_session: Final = count_files.values(last_run_at_ms=param("last_run_at_ms"))
commit_session_data: Final = commit_session.values(
    data=param("data"), data_revision=param("data_revision")
)
# --- stored code --------------------------------------------------------------------------------

code_of: Final = select(codes.c.code, codes.c.description, codes.c.updated_at_ms).where(
    codes.c.uid == param("of")
)
insert_code: Final = insert(codes)
update_code: Final = (
    update(codes)
    .where(codes.c.uid == param("of"))
    .values(
        code=param("code"),
        description=param("description"),
        updated_at_ms=param("updated_at_ms"),
    )
)
delete_code: Final = delete(codes).where(codes.c.uid == param("of"))
copy_code: Final = insert(codes).from_select(
    ["uid", "code", "description", "updated_at_ms"],
    select(
        cast(param("copy_uid"), BigInteger),
        codes.c.code,
        codes.c.description,
        codes.c.updated_at_ms,
    ).where(codes.c.uid == param("of")),
)

# --- setups and layers --------------------------------------------------------------------------

_setup_is: Final = setups.c.uid == param("of")
insert_setup: Final = insert(setups)
setup_of: Final = select(*SETUP_COLUMNS, setups.c.spec, setups.c.queued_at_ms).where(
    setups.c.uid == param("of")
)
oldest_pending: Final = (
    select(setups.c.uid, sessions.c.id, sessions.c.language, setups.c.spec, setups.c.attempts)
    .join_from(setups, sessions, sessions.c.uid == setups.c.uid)
    # Written out, so that the planner sees that the partial index serves.
    .where(setups.c.status == literal_column("'pending'"))
    .order_by(setups.c.queued_at_ms, setups.c.uid)
    .limit(literal_column("1"))
    .with_for_update(of=setups, skip_locked=True)
)
start_setup: Final = (
    update(setups)
    .where(_setup_is)
    .values(
        status="running",
        attempts=setups.c.attempts + 1,
        progress=null(),
        owner=param("owner"),
        until_ms=db_now_ms() + cast(param("ttl_ms"), BigInteger),
        epoch=setups.c.epoch + 1,
    )
    .returning(setups.c.epoch)
)
_running: Final = setups.c.status == "running"
progress_setup: Final = update(setups).where(_setup_is, _running).values(progress=param("progress"))
_over: Final = {"spec": null(), "progress": null(), "result": param("result")}
finish_setup: Final = (
    update(setups)
    .where(_setup_is)
    .values(status=param("status"), layer=func.coalesce(param("layer"), setups.c.layer), **_over)
)
_owner: Final = func.coalesce(setups.c.owner, literal(""))
_orphaned: Final = and_(
    setups.c.status == literal_column("'running'"),
    or_(
        setups.c.until_ms <= db_now_ms(),
        and_(_owner >= param("low"), _owner < param("high")),
    ),
)
give_up_setups: Final = (
    update(setups)
    .where(_orphaned, setups.c.attempts >= param("max_attempts"))
    .values(status="failed", **_over)
)
resume_setups: Final = update(setups).where(_orphaned).values(status="pending", progress=null())
renew_setups: Final = (
    update(setups)
    .where(
        setups.c.status == literal_column("'running'"),
        setups.c.owner == param("of_node"),
        among(setups.c.uid, "uids"),
    )
    .values(until_ms=db_now_ms() + cast(param("ttl_ms"), BigInteger))
    .returning(setups.c.uid)
)
hold_setup: Final = (
    select(setups.c.status, setups.c.epoch).where(_setup_is).with_for_update(of=setups)
)
requeue_setup: Final = (
    update(setups)
    .where(_setup_is)
    .values(
        status="pending",
        attempts=0,
        progress=null(),
        result=null(),
        request=param("request"),
        spec=param("spec"),
        queued_at_ms=param("queued_at_ms"),
    )
)

_layer_is: Final = layers.c.key == param("key")
_used: Final = exists().where(setups.c.layer == layers.c.key)
layer_by_key: Final = select(layers).where(_layer_is)
insert_layer: Final = insert(layers)
layer_keys: Final = select(layers.c.key)
layer_keys_used: Final = select(layers.c.key).where(_used)
# A setup that takes a layer holds it; whoever removes it first waits, then looks for its users.
hold_layer: Final = select(layers.c.key).where(_layer_is).with_for_update(read=True)
lock_layer: Final = select(layers.c.key).where(_layer_is).with_for_update()
unused_layer: Final = layer_by_key.where(~_used)
delete_layer: Final = delete(layers).where(_layer_is)

_asked: Final = listed("blobs", "asked")
unreferenced: Final = select(_asked.c.value).where(
    ~exists().where(entries.c.blob == _asked.c.value).correlate(_asked),
    ~exists().where(layers.c.blob == _asked.c.value).correlate(_asked),
)

# --- the store itself ---------------------------------------------------------------------------

probe_write: Final = update(sessions).where(sessions.c.uid == 0).values(updated_at_ms=0)
"""Changes nothing, but needs a database that takes writes."""
