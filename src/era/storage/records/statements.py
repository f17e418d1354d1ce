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

from era.storage.records.tables import (
    blobs,
    codes,
    entries,
    facts,
    layers,
    objects,
    sessions,
    setups,
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


class db_now_ms(GenericFunction[int]):  # noqa: N801 - as SQL writes it
    """Unix milliseconds by the database's clock, as of now and not of the transaction's start."""

    type = BigInteger()
    inherit_cache = True


@compiles(db_now_ms, "postgresql")
def _now_postgresql(element: db_now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now_ms, "sqlite")
def _now_sqlite(element: db_now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def has_row_locks(connection: Connection) -> bool:
    """Whether writers run side by side, so that rows have to be locked."""
    return connection.dialect.name != "sqlite"


def listed(name: str, alias: str = "listed") -> TableValuedAlias:
    """The values of the JSON array bound as `name`, as a table with the column `value`."""
    return _JsonElements(bindparam(name, type_=Text)).table_valued(
        Column("value", Text), name=alias
    )


def _param(name: str) -> ColumnElement[Any]:
    return bindparam(name)


def _among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    values = listed(name)
    value: ColumnElement[Any] = values.c.value
    if isinstance(column.type, BigInteger):
        value = cast(value, BigInteger)
    return column.in_(select(value))


# --- sessions -----------------------------------------------------------------------------------

SESSION_COLUMNS: Final = tuple(
    column for column in sessions.c if column.name not in ("dir_count", "history_from")
)
SETUP_COLUMNS: Final = (
    setups.c.request,
    setups.c.status,
    setups.c.attempts,
    setups.c.progress,
    setups.c.result,
    setups.c.layer,
)
_has_code: Final = exists().where(codes.c.uid == sessions.c.uid)
_full: Final = select(
    *SESSION_COLUMNS, *SETUP_COLUMNS, _has_code, sessions.c.dir_count, sessions.c.history_from
).select_from(sessions.outerjoin(setups, setups.c.uid == sessions.c.uid))
_id_is: Final = sessions.c.id == _param("id")
_uid_is: Final = sessions.c.uid == _param("of")
_id_range: Final = and_(sessions.c.id >= _param("low"), sessions.c.id < _param("high"))


def _page(query: Select[Any]) -> Select[Any]:
    return (
        query.where(sessions.c.uid > _param("after"))
        .order_by(sessions.c.uid)
        .limit(_param("limit"))
    )


session_by_id: Final = _full.where(_id_is)
session_by_uid: Final = _full.where(_uid_is)
_lock: Final = select(sessions.c.uid).with_for_update()
lock_by_id: Final = _lock.where(_id_is)
lock_by_uid: Final = _lock.where(_uid_is)
uid_by_id: Final = select(sessions.c.uid, sessions.c.file_count, sessions.c.total_size_bytes).where(
    _id_is
)
session_page: Final = _page(_full)
# "+ 0" takes the choice from SQLite's planner: a prefix is the narrower condition.
session_page_of: Final = (
    _full.where(_id_range, sessions.c.uid + 0 > _param("after"))
    .order_by(sessions.c.uid + 0)
    .limit(_param("limit"))
)
session_total: Final = select(func.count()).select_from(sessions)
session_total_of: Final = session_total.where(_id_range)
insert_session: Final = insert(sessions).returning(sessions.c.uid)
delete_session: Final = delete(sessions).where(_uid_is)
delete_sessions: Final = delete(sessions).where(_among(sessions.c.uid, "uids"))

patch_session: Final = (
    update(sessions)
    .where(_uid_is)
    .values(
        {
            name: _param(name)
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
touch_session: Final = update(sessions).where(_uid_is).values(updated_at_ms=_param("updated_at_ms"))
_counts: Final = {
    name: _param(name)
    for name in (
        "updated_at_ms",
        "file_count",
        "dir_count",
        "total_size_bytes",
        "files_revision",
    )
}
count_files: Final = update(sessions).where(_uid_is).values(_counts)
commit_session: Final = count_files.values(last_run_at_ms=_param("last_run_at_ms"))
commit_session_data: Final = commit_session.values(
    data=_param("data"), data_revision=_param("data_revision")
)
raise_history: Final = update(sessions).where(_uid_is).values(history_from=_param("history_from"))

# --- the manifest -------------------------------------------------------------------------------

ENTRY_COLUMNS: Final = (
    entries.c.path,
    entries.c.kind,
    entries.c.blob,
    entries.c.size,
    entries.c.mode,
    entries.c.mtime_ns,
    entries.c.target,
    entries.c.content_type,
    entries.c.uploaded_at_ms,
)
_own: Final = entries.c.uid == _param("of")
_live: Final = entries.c.until == null()
_shown: Final = entries.c.kind != "dir"
_here: Final = and_(_own, _live)
_between: Final = and_(entries.c.path >= _param("low"), entries.c.path < _param("high"))
_entry: Final = select(*ENTRY_COLUMNS, entries.c.key, entries.c.since)

_size_of_files: Final = func.coalesce(func.sum(entries.c.size), 0)

file_page: Final = (
    _entry.where(_here, _shown, _between, entries.c.path > _param("after"))
    .order_by(entries.c.path)
    .limit(_param("limit"))
)
file_total_of: Final = select(func.count(), _size_of_files).where(_here, _shown, _between)
entry_at: Final = _entry.where(_here, entries.c.path == _param("at"))
entries_at: Final = _entry.where(_here, _among(entries.c.path, "paths"))
entries_between: Final = _entry.where(_here, _between)
has_between: Final = select(exists().where(_here, _between))

_top: Final = listed("paths", "top")
# "/" + 1 == "0": everything below a directory lies between the two in byte order.
_below_top: Final = and_(
    entries.c.path > _top.c.value + literal_column("'/'"),
    entries.c.path < _top.c.value + literal_column("'0'"),
)
entries_below: Final = select(
    *ENTRY_COLUMNS, entries.c.key, entries.c.since, _top.c.value
).select_from(_top.outerjoin(entries, and_(_here, _below_top)))
"""Current entries anywhere below each of `paths`, with that path last; nulls where there are none.
An outer join only because SQLite would walk all entries to begin with if it were free to choose."""
occupied: Final = select(_top.c.value).where(exists().where(_here, _below_top).correlate(_top))
"""Those of `paths` that have a current entry below them."""

insert_entries: Final = insert(entries)
close_entries: Final = (
    update(entries).where(_among(entries.c.key, "keys")).values(until=_param("revision"))
)
copy_entries: Final = insert(entries).from_select(
    ["uid", "since", *(column.name for column in ENTRY_COLUMNS)],
    select(cast(_param("copy_uid"), BigInteger), literal(1, BigInteger), *ENTRY_COLUMNS).where(
        _here
    ),
)
written_since: Final = _entry.where(_here, entries.c.since > _param("revision")).order_by(
    entries.c.path
)
gone_since: Final = _entry.where(
    _own, entries.c.until > _param("revision"), entries.c.since <= _param("revision")
)
sessions_with_history: Final = select(entries.c.uid).where(entries.c.until != null()).distinct()
_forgotten: Final = and_(_own, entries.c.until <= _param("revision"))
last_forgotten: Final = select(func.max(entries.c.until), func.count()).where(_forgotten)
forget_entries: Final = delete(entries).where(_forgotten)

# --- stored code --------------------------------------------------------------------------------

code_of: Final = select(codes.c.code, codes.c.description, codes.c.updated_at_ms).where(
    codes.c.uid == _param("of")
)
insert_code: Final = insert(codes)
update_code: Final = (
    update(codes)
    .where(codes.c.uid == _param("of"))
    .values(
        code=_param("code"),
        description=_param("description"),
        updated_at_ms=_param("updated_at_ms"),
    )
)
delete_code: Final = delete(codes).where(codes.c.uid == _param("of"))
copy_code: Final = insert(codes).from_select(
    ["uid", "code", "description", "updated_at_ms"],
    select(
        cast(_param("copy_uid"), BigInteger),
        codes.c.code,
        codes.c.description,
        codes.c.updated_at_ms,
    ).where(codes.c.uid == _param("of")),
)

# --- setups and layers --------------------------------------------------------------------------

_setup_is: Final = setups.c.uid == _param("of")
insert_setup: Final = insert(setups)
setup_of: Final = select(*SETUP_COLUMNS, setups.c.spec, setups.c.queued_at_ms).where(
    setups.c.uid == _param("of")
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
    .values(status="running", attempts=setups.c.attempts + 1, progress=null())
)
_running: Final = setups.c.status == "running"
progress_setup: Final = (
    update(setups).where(_setup_is, _running).values(progress=_param("progress"))
)
_over: Final = {"spec": null(), "progress": null(), "result": _param("result")}
finish_setup: Final = (
    update(setups)
    .where(_setup_is)
    .values(status=_param("status"), layer=func.coalesce(_param("layer"), setups.c.layer), **_over)
)
give_up_setups: Final = (
    update(setups)
    .where(_running, setups.c.attempts >= _param("max_attempts"))
    .values(status="failed", **_over)
)
resume_setups: Final = update(setups).where(_running).values(status="pending", progress=null())
requeue_setup: Final = (
    update(setups)
    .where(_setup_is)
    .values(
        status="pending",
        attempts=0,
        progress=null(),
        result=null(),
        request=_param("request"),
        spec=_param("spec"),
        queued_at_ms=_param("queued_at_ms"),
    )
)

_layer_is: Final = layers.c.key == _param("key")
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

# --- blobs in an object store ---------------------------------------------------------------------

_now: Final = func.coalesce(cast(_param("now_ms"), BigInteger), db_now_ms())
_cutoff: Final = _now - cast(_param("age_ms"), BigInteger)
_place: Final = (blobs.c.blob, blobs.c.object, blobs.c.offset, blobs.c.size)
_asked_blobs: Final = _among(blobs.c.blob, "blobs")
_object_is: Final = objects.c.name == _param("of")
insert_object: Final = insert(objects).values(
    name=_param("name"), announced_at_ms=_now, filled=0, live=0, abandoned=False
)
fill_object: Final = (
    update(objects)
    .where(_object_is, ~objects.c.abandoned)
    .values(filled=_param("count"), live=_param("count"))
)
empty_object: Final = update(objects).where(_object_is).values(live=objects.c.live - 1)
places: Final = select(*_place).where(_asked_blobs)
renew_blobs: Final = update(blobs).where(_asked_blobs).values(stored_at_ms=_now).returning(*_place)
insert_blob: Final = insert(blobs).values(
    blob=_param("blob"),
    object=_param("object"),
    offset=_param("offset"),
    size=_param("size"),
    stored_at_ms=_now,
)
aged_blobs: Final = (
    select(blobs.c.blob)
    .where(blobs.c.blob > _param("after"), blobs.c.stored_at_ms <= _cutoff)
    .order_by(blobs.c.blob)
    .limit(_param("limit"))
)
drop_blob: Final = (
    delete(blobs)
    .where(blobs.c.blob == _param("at"), blobs.c.stored_at_ms <= _cutoff)
    .returning(blobs.c.object)
)
blob_known: Final = select(blobs.c.blob).where(blobs.c.blob == _param("at"))
_unfilled_cutoff: Final = _now - cast(_param("unfilled_ms"), BigInteger)
# The row alone decides, so a writer that has filled the object meanwhile is seen.
abandon_objects: Final = (
    update(objects)
    .where(
        objects.c.live == literal_column("0"),
        or_(
            and_(objects.c.filled > 0, objects.c.announced_at_ms <= _cutoff),
            and_(objects.c.filled == 0, objects.c.announced_at_ms <= _unfilled_cutoff),
        ),
    )
    .values(abandoned=True)
    .returning(objects.c.name)
)
forget_objects: Final = delete(objects).where(
    objects.c.abandoned, _among(objects.c.name, "objects")
)

fact: Final = select(facts.c.value).where(facts.c.name == _param("name"))
insert_fact: Final = insert(facts)
holds_files: Final = select(
    or_(exists().where(entries.c.blob != null()), exists(select(layers.c.key)))
)

# --- the store itself ---------------------------------------------------------------------------

probe_write: Final = update(sessions).where(sessions.c.uid == 0).values(updated_at_ms=0)
"""Changes nothing, but needs a database that takes writes."""
