"""Statements on the manifest: what a session's workspace holds, now and at earlier revisions.

A copy begins without entries of its own.  It sees those that its *base*, the session it was made
from, had at one revision, wherever it has none itself; an entry of kind `gone` hides one of the base.
So a question about the tree comes as a `Twin`, for sessions without a base and for copies; the
second binds `base` and `base_revision` besides.  A base has no base itself (`units.copies`).

Conventions are those of `statements`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    union_all,
    update,
)

from era.storage.records.statements import among, listed, param
from era.storage.records.tables import entries, orphans, sessions

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
GONE: Final = "gone"
"""The kind of an entry that hides what the base has at its path."""
BASE_KEY: Final = 0
"""Stands for the key of an entry of the base, whose row is nobody's to change."""

Columns = Sequence[ColumnElement[Any]]
Ask = Callable[[Columns, ColumnElement[bool]], Select[Any]]


@dataclass(frozen=True, slots=True)
class Twin:
    """One question, asked of a tree without a base and of one with."""

    plain: Select[Any]
    copy: CompoundSelect[Any]


_own: Final = entries.c.uid == param("of")
_live: Final = entries.c.until == null()
_here: Final = and_(_own, _live)
_real: Final = entries.c.kind != literal_column(f"'{GONE}'")
_shown: Final = entries.c.kind != "dir"
_between: Final = and_(entries.c.path >= param("low"), entries.c.path < param("high"))
_hiding: Final = entries.alias("hiding")
# "+ 0" leaves SQLite's planner the indexes by path alone: one of those that still are there in the
# base, one of those that are not.
_of_base: Final = and_(
    entries.c.uid == param("base"),
    entries.c.since + literal_column("0") <= param("base_revision"),
)
_there: Final = and_(_of_base, _live)
_left_it: Final = and_(
    _of_base,
    entries.c.until > param("base_revision"),
)
_hidden: Final = (
    exists()
    .where(
        _hiding.c.uid == param("of"), _hiding.c.path == entries.c.path, _hiding.c.until == null()
    )
    .correlate(entries)
)
_OWN: Final[Columns] = (*ENTRY_COLUMNS, entries.c.key, entries.c.since)
# Whatever the base had was there from the copy's first revision on.
_BASE: Final[Columns] = (
    *ENTRY_COLUMNS,
    literal_column(str(BASE_KEY), BigInteger).label("key"),
    literal_column("1", BigInteger).label("since"),
)


def _seen_of_base(ask: Ask) -> tuple[Select[Any], Select[Any]]:
    return ask(_BASE, and_(_there, ~_hidden)), ask(_BASE, and_(_left_it, ~_hidden))


def _twin(ask: Ask) -> Twin:
    return Twin(
        plain=ask(_OWN, _here),
        copy=union_all(ask(_OWN, and_(_here, _real)), *_seen_of_base(ask)),
    )


def _in_order(twin: Twin, *, limited: bool) -> Twin:
    """The answers in the order of their paths."""
    plain = twin.plain.order_by(entries.c.path)
    copy = twin.copy.order_by(literal_column("1"))
    if limited:
        plain, copy = plain.limit(param("limit")), copy.limit(param("limit"))
    return Twin(plain, copy)


# --- the present tree ---------------------------------------------------------------------------

file_page: Final = _in_order(
    _twin(
        lambda columns, here: select(*columns).where(
            here, _shown, _between, entries.c.path > param("after")
        )
    ),
    limited=True,
)
file_totals: Final = _twin(
    lambda _, here: select(func.count(), func.coalesce(func.sum(entries.c.size), 0)).where(
        here, _shown, _between
    )
)
"""One row for each place where entries are."""
entry_at: Final = _twin(
    lambda columns, here: select(*columns).where(here, entries.c.path == param("at"))
)
entries_at: Final = _twin(
    lambda columns, here: select(*columns).where(here, among(entries.c.path, "paths"))
)
entries_between: Final = _twin(lambda columns, here: select(*columns).where(here, _between))
has_between: Final = _twin(lambda _, here: select(exists().where(here, _between)))
"""One row for each place where entries may be."""

_top: Final = listed("paths", "top")
# "/" + 1 == "0": everything below a directory lies between the two in byte order.
_below_top: Final = and_(
    entries.c.path > _top.c.value + literal_column("'/'"),
    entries.c.path < _top.c.value + literal_column("'0'"),
)
entries_below: Final = _twin(
    lambda columns, here: select(*columns, _top.c.value).select_from(
        _top.outerjoin(entries, and_(here, _below_top))
    )
)
"""Current entries anywhere below each of `paths`, with that path last; nulls where there are none.
An outer join only because SQLite would walk all entries to begin with if it were free to choose."""
occupied: Final = _twin(
    lambda _, here: select(_top.c.value).where(exists().where(here, _below_top).correlate(_top))
)
"""Those of `paths` that have a current entry below them."""

# --- from one revision to the next --------------------------------------------------------------

insert_entries: Final = insert(entries)
close_entries: Final = (
    update(entries).where(among(entries.c.key, "keys")).values(until=param("revision"))
)
in_base: Final = union_all(
    *(
        select(entries.c.path).where(part, among(entries.c.path, "paths"))
        for part in (_there, _left_it)
    )
)
"""Those of `paths` at which the base has something."""
close_gone: Final = (
    update(entries)
    .where(_here, entries.c.kind == literal_column(f"'{GONE}'"), among(entries.c.path, "paths"))
    .values(until=param("revision"))
)

_since: Final = cast(param("revision"), BigInteger)
written_since: Final = _in_order(
    Twin(
        plain=select(*_OWN).where(_here, entries.c.since > _since),
        copy=union_all(
            select(*_OWN).where(_here, _real, entries.c.since > _since),
            *_seen_of_base(
                lambda columns, here: select(*columns).where(here, literal_column("1") > _since)
            ),
        ),
    ),
    limited=False,
)
_left: Final = and_(_own, entries.c.until > _since, entries.c.since <= _since)
_change: Final = entries.alias("change")
_changed: Final = entries.c.path.in_(
    select(_change.c.path).where(_change.c.uid == param("of"), _change.c.since > _since)
)
_hid_then: Final = entries.alias("hid_then")


def _was_hidden(until: ColumnElement[bool]) -> ColumnElement[bool]:
    return (
        exists()
        .where(
            _hid_then.c.uid == param("of"),
            _hid_then.c.path == entries.c.path,
            _hid_then.c.since + literal_column("0") <= _since,
            until,
        )
        .correlate(entries)
    )


gone_since: Final = Twin(
    plain=select(*_OWN).where(_left),
    copy=union_all(
        select(*_OWN).where(_left, _real),
        # What of the base was hidden by nothing at that revision, and is now.
        *(
            select(*_BASE).where(
                part,
                _changed,
                ~_was_hidden(_hid_then.c.until == null()),
                ~_was_hidden(_hid_then.c.until != null()),
            )
            for part in (_there, _left_it)
        ),
    ),
)
# It may have begun later already: copies keep some entries for longer than those that came after.
raise_history: Final = (
    update(sessions)
    .where(sessions.c.uid == param("of"), sessions.c.history_from < param("history_from"))
    .values(history_from=param("history_from"))
)
sessions_with_history: Final = select(entries.c.uid).where(entries.c.until != null()).distinct()
_closed: Final = and_(_own, entries.c.until <= param("revision"))
_copies_that_see: Final = (
    exists()
    .where(
        sessions.c.base_uid == entries.c.uid,
        sessions.c.base_revision >= entries.c.since,
        sessions.c.base_revision < entries.c.until,
    )
    .correlate(entries)
)
forget_entries: Final = delete(entries).where(_closed, ~_copies_that_see).returning(entries.c.until)
"""When each of them had ended.  Asked beforehand it might be others: copies come and go."""

# --- copies -------------------------------------------------------------------------------------


_NEW: Final = ("uid", "since", *(column.name for column in ENTRY_COLUMNS))


def _for(uid: str, here: ColumnElement[bool]) -> Select[Any]:
    first = literal_column("1", BigInteger)
    return select(cast(param(uid), BigInteger), first, *ENTRY_COLUMNS).where(here)


own_entries: Final = select(func.count()).select_from(
    select(entries.c.key).where(_here).limit(param("limit")).subquery()
)
"""How many entries a session has itself, as far as `limit`."""
copy_entries: Final = insert(entries).from_select(_NEW, _for("copy_uid", _here))
"""The own entries of a session, for a copy."""
take_entries: Final = insert(entries).from_select(
    _NEW, union_all(*_seen_of_base(lambda _, here: _for("of", here)))
)
"""What a copy sees of its base, as its own."""
forget_gone: Final = delete(entries).where(_own, entries.c.kind == literal_column(f"'{GONE}'"))
leave_base: Final = (
    update(sessions)
    .where(sessions.c.uid == param("of"))
    .values(base_uid=null(), base_revision=null(), history_from=sessions.c.files_revision)
)
bases_among: Final = (
    select(sessions.c.base_uid).where(among(sessions.c.base_uid, "uids")).distinct()
)
insert_orphans: Final = insert(orphans)
delete_entries: Final = delete(entries).where(among(entries.c.uid, "uids"))
_has_copies: Final = exists().where(sessions.c.base_uid == orphans.c.uid).correlate(orphans)
forget_orphans: Final = delete(orphans).where(~_has_copies).returning(orphans.c.uid)
_copies: Final = (
    select(sessions.c.uid)
    .where(sessions.c.base_uid == orphans.c.uid)
    .correlate(orphans)
    .limit(literal_column("2"))
)
last_copy: Final = (
    select(_copies.limit(literal_column("1")).scalar_subquery())
    .select_from(orphans)
    .where(
        select(func.count()).select_from(_copies.subquery()).correlate(orphans).scalar_subquery()
        == literal(1)
    )
    .limit(literal_column("1"))
)
"""The only copy that is left of a session that is gone."""
