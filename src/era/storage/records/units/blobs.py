"""Which object of an object store each blob is in, and facts about the database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection

from era.errors import InternalError
from era.storage.index import Place
from era.storage.records import node_statements as sql


def announce(connection: Connection, objects: Sequence[str], now_ms: int | None) -> None:
    """See `BlobIndex.announce`."""
    connection.execute(sql.insert_object, [{"name": name, "now_ms": now_ms} for name in objects])


def fill(connection: Connection, places: Sequence[Place], now_ms: int | None) -> None:
    """See `BlobIndex.fill`."""
    names = list(dict.fromkeys(place.blob for place in places))
    known = {place.blob for place in find(connection, names, True, now_ms)}
    fresh = {place.blob: place for place in places if place.blob not in known}
    counts = Counter(place.object for place in fresh.values())
    for name in dict.fromkeys(place.object for place in places):
        if name not in counts:
            continue  # all of it is known: the object stays unfilled, and is abandoned in time
        filled = connection.execute(sql.fill_object, {"of": name, "count": counts[name]})
        if not filled.rowcount:
            raise InternalError(text="an object was abandoned while it was uploaded")
    if fresh:
        connection.execute(
            sql.insert_blob,
            [
                {
                    "blob": place.blob,
                    "object": place.object,
                    "offset": place.offset,
                    "size": place.size,
                    "now_ms": now_ms,
                }
                for place in fresh.values()
            ],
        )


def find(
    connection: Connection, blobs: Sequence[str], renew: bool, now_ms: int | None
) -> tuple[Place, ...]:
    """See `BlobIndex.places`."""
    asked = {"blobs": json.dumps(list(blobs))}
    if renew:
        found = connection.execute(sql.renew_blobs, {**asked, "now_ms": now_ms}).all()
    else:
        found = connection.execute(sql.places, asked).all()
    return tuple(Place(blob=row[0], object=row[1], offset=row[2], size=row[3]) for row in found)


def aged(
    connection: Connection, age_ms: int, after: str, limit: int, now_ms: int | None
) -> tuple[str, ...]:
    """See `BlobIndex.aged`."""
    asked = {"age_ms": age_ms, "after": after, "limit": limit, "now_ms": now_ms}
    return tuple(connection.execute(sql.aged_blobs, asked).scalars())


def drop(connection: Connection, blob: str, age_ms: int, now_ms: int | None) -> bool:
    """See `BlobIndex.drop`."""
    asked = {"at": blob, "age_ms": age_ms, "now_ms": now_ms}
    held_by = connection.execute(sql.drop_blob, asked).scalar_one_or_none()
    if held_by is None:
        return connection.execute(sql.blob_known, {"at": blob}).first() is None
    connection.execute(sql.empty_object, {"of": held_by})
    return True


def abandon(
    connection: Connection, emptied_ms: int, unfilled_ms: int, now_ms: int | None
) -> tuple[str, ...]:
    """See `BlobIndex.abandon`."""
    asked = {"age_ms": emptied_ms, "unfilled_ms": unfilled_ms, "now_ms": now_ms}
    return tuple(connection.execute(sql.abandon_objects, asked).scalars().all())


def sparse(
    connection: Connection, age_ms: int, after: str, limit: int, now_ms: int | None
) -> tuple[Place, ...]:
    """See `BlobIndex.sparse`."""
    asked = {"age_ms": age_ms, "after": after, "limit": limit, "now_ms": now_ms}
    found = connection.execute(sql.sparse_objects, asked).all()
    return tuple(Place(blob=row[0], object=row[1], offset=row[2], size=row[3]) for row in found)


def move(connection: Connection, places: Sequence[Place], now_ms: int | None) -> None:
    """See `BlobIndex.move`."""
    names = sorted({place.blob for place in places})
    # In order, so that two who move the same wait for each other and do not lock each other out; and
    # held, so that the second knows where the first has left them.
    held = connection.execute(sql.hold_places, {"blobs": json.dumps(names)}).all()
    left = {row.object for row in held}
    connection.execute(
        sql.move_blob,
        [
            {"at": place.blob, "object": place.object, "offset": place.offset}
            for place in sorted(places, key=lambda place: place.blob)
        ],
    )
    for name in sorted({place.object for place in places}):
        count = connection.execute(sql.held_by, {"of": name}).scalar_one()
        filled = connection.execute(sql.fill_object, {"of": name, "count": count})
        if not filled.rowcount:
            raise InternalError(text="an object was abandoned while it was uploaded")
    for name in sorted(left):
        # Whoever drops a blob of it meanwhile has done so before it is counted, or does so after.
        connection.execute(sql.hold_object, {"of": name}).all()
        count = connection.execute(sql.held_by, {"of": name}).scalar_one()
        connection.execute(sql.leave_object, {"of": name, "count": count, "now_ms": now_ms})


def removed(connection: Connection, objects: Sequence[str]) -> None:
    """See `BlobIndex.removed`."""
    connection.execute(sql.forget_objects, {"objects": json.dumps(list(objects))})


def fact(connection: Connection, name: str, value: str) -> str:
    """The fact called `name`; `value` becomes it when there is none."""
    known = known_fact(connection, name)
    if known is None:
        connection.execute(sql.insert_fact, {"name": name, "value": value})
    return value if known is None else known


def known_fact(connection: Connection, name: str) -> str | None:
    """The fact called `name`."""
    known: str | None = connection.execute(sql.fact, {"name": name}).scalar_one_or_none()
    return known


def holds_files(connection: Connection) -> bool:
    """Whether an entry or a layer refers to a blob."""
    return bool(connection.execute(sql.holds_files).scalar())
