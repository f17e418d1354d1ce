"""Statements about the nodes: which of them has a session, which object has a blob.

Built once, as in `statements`, whose conventions hold.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    text,
    update,
)

from era.storage.records.clock import db_now_ms
from era.storage.records.statements import among, param
from era.storage.records.tables import (
    SPARSE,
    blobs,
    entries,
    facts,
    layers,
    leases,
    objects,
    sessions,
)

# --- leases -------------------------------------------------------------------------------------

_end: Final = db_now_ms() + cast(param("ttl_ms"), BigInteger)
_mine: Final = leases.c.owner == param("node")
_over: Final = leases.c.until_ms <= db_now_ms()
lease_session: Final = select(sessions.c.uid).where(sessions.c.id == param("id"))
take_lease: Final = (
    update(leases)
    .where(leases.c.uid == param("of"), or_(_mine, _over))
    .values(
        owner=param("node"),
        address=param("at_address"),
        epoch=case((_mine, leases.c.epoch), else_=leases.c.epoch + 1),
        until_ms=_end,
        running=case((_mine, leases.c.running), else_=False),
        queued=case((_mine, leases.c.queued), else_=0),
    )
    .returning(leases.c.epoch)
)
insert_lease: Final = insert(leases).values(
    uid=param("of"),
    owner=param("node"),
    address=param("at_address"),
    epoch=1,
    until_ms=_end,
    running=False,
    queued=0,
)
_holder: Final = (leases.c.uid, leases.c.address, leases.c.running, leases.c.queued)
lease_holder: Final = select(*_holder).where(leases.c.uid == param("of"))
renew_leases: Final = (
    update(leases)
    .where(_mine, leases.c.until_ms > literal_column("0"))
    .values(until_ms=_end)
    .returning(leases.c.uid, leases.c.epoch)
)
release_leases: Final = (
    update(leases)
    .where(_mine, among(leases.c.uid, "uids"))
    .values(until_ms=0, running=False, queued=0)
)
release_nodes: Final = (
    update(leases)
    .where(leases.c.owner >= param("low"), leases.c.owner < param("high"))
    .values(until_ms=0, running=False, queued=0)
)
tell: Final = (
    update(leases)
    .where(_mine, leases.c.uid == param("of"))
    .values(running=param("running"), queued=param("queued"))
)
_others: Final = select(*_holder).where(
    leases.c.owner != param("node"),
    leases.c.until_ms > db_now_ms(),
    leases.c.until_ms > literal_column("0"),
)
holders_of: Final = _others.where(
    leases.c.uid == select(sessions.c.uid).where(sessions.c.id == param("id")).scalar_subquery()
)
holders: Final = _others.where(or_(leases.c.running, leases.c.queued > literal_column("0")))
# Held until the commit, so that nobody takes the lease between this look and that.
fence: Final = select(leases.c.epoch).where(leases.c.uid == param("of")).with_for_update(read=True)

# --- blobs in an object store ---------------------------------------------------------------------

_now: Final = func.coalesce(cast(param("now_ms"), BigInteger), db_now_ms())
_cutoff: Final = _now - cast(param("age_ms"), BigInteger)
_place: Final = (blobs.c.blob, blobs.c.object, blobs.c.offset, blobs.c.size)
_asked_blobs: Final = among(blobs.c.blob, "blobs")
_object_is: Final = objects.c.name == param("of")
insert_object: Final = insert(objects).values(
    name=param("name"), announced_at_ms=_now, filled=0, live=0, abandoned=False
)
fill_object: Final = (
    update(objects)
    .where(_object_is, ~objects.c.abandoned)
    .values(filled=param("count"), live=param("count"))
)
empty_object: Final = update(objects).where(_object_is).values(live=objects.c.live - 1)
places: Final = select(*_place).where(_asked_blobs)
hold_places: Final = places.order_by(blobs.c.blob).with_for_update()
renew_blobs: Final = update(blobs).where(_asked_blobs).values(stored_at_ms=_now).returning(*_place)
insert_blob: Final = insert(blobs).values(
    blob=param("blob"),
    object=param("object"),
    offset=param("offset"),
    size=param("size"),
    stored_at_ms=_now,
)
aged_blobs: Final = (
    select(blobs.c.blob)
    .where(blobs.c.blob > param("after"), blobs.c.stored_at_ms <= _cutoff)
    .order_by(blobs.c.blob)
    .limit(param("limit"))
)
drop_blob: Final = (
    delete(blobs)
    .where(blobs.c.blob == param("at"), blobs.c.stored_at_ms <= _cutoff)
    .returning(blobs.c.object)
)
blob_known: Final = select(blobs.c.blob).where(blobs.c.blob == param("at"))
_unfilled_cutoff: Final = _now - cast(param("unfilled_ms"), BigInteger)
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
_next_sparse: Final = (
    select(objects.c.name)
    .where(
        text(SPARSE),
        objects.c.announced_at_ms <= _cutoff,
        ~objects.c.abandoned,
        objects.c.name > param("after"),
    )
    .order_by(objects.c.name)
    .limit(param("limit"))
)
sparse_objects: Final = (
    select(*_place).where(blobs.c.object.in_(_next_sparse)).order_by(blobs.c.object, blobs.c.offset)
)
move_blob: Final = (
    update(blobs)
    .where(blobs.c.blob == param("at"))
    .values(object=param("object"), offset=param("offset"))
)
hold_object: Final = select(objects.c.name).where(_object_is).with_for_update()
held_by: Final = select(func.count()).where(blobs.c.object == param("of"))
leave_object: Final = (
    update(objects).where(_object_is).values(live=param("count"), announced_at_ms=_now)
)
forget_objects: Final = delete(objects).where(objects.c.abandoned, among(objects.c.name, "objects"))

fact: Final = select(facts.c.value).where(facts.c.name == param("name"))
insert_fact: Final = insert(facts)
holds_files: Final = select(
    or_(exists().where(entries.c.blob != null()), exists(select(layers.c.key)))
)
