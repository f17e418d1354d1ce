"""Which keepers the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.errors import EraError
from era.ids import new_token
from era.storage.base import Blobs
from era.storage.blobs.local import LocalBlobs
from era.storage.records.keeper import DatabaseRecords


class Claim(Protocol):
    """`ObjectBlobs.claim`."""

    def __call__(self, identity: str, *, fresh: bool) -> Awaitable[bool]:
        """Whether the store is the one that belongs to `identity`."""


_IDENTITY: Final = "blobs"
"""The fact by which a database and the store of its files know each other."""


async def open_records(settings: Settings, state: StateDir) -> DatabaseRecords:
    """The records, in PostgreSQL or in the state directory.

    Raises:
        StartError: PostgreSQL cannot be used.
        EraError: the file cannot.
    """
    if not settings.database_url:
        from era.storage.records.sqlite import SqliteRecords

        return await asyncio.to_thread(SqliteRecords, state.of("era.db"))
    from era.storage.records.postgres import PostgresRecords

    try:
        return await asyncio.to_thread(PostgresRecords, settings.database_url)
    except EraError as error:
        hint = "Check ERA_DATABASE_URL, and that the server answers."
        raise _unusable("the database", error, hint) from error


async def open_blobs(settings: Settings, state: StateDir, records: DatabaseRecords) -> Blobs:
    """The bytes, in an object store or in the state directory.

    Raises:
        StartError: the store cannot be used, or is not the one that holds the database's files.
        EraError: the directory cannot.
    """
    if not settings.blobs_url:
        if await records.known_fact(_IDENTITY) is not None:
            raise StartError(
                "the files of this database are in an object store",
                "Set ERA_BLOBS_URL to it.",
            )
        return await asyncio.to_thread(LocalBlobs, state.of("blobs"))
    from era.storage.blobs.objects import ObjectBlobs, open_store

    try:
        store = open_store(settings.blobs_url)
        cache = state.of("cache")
        blobs = ObjectBlobs(store, records, cache, cache_bytes=settings.blob_cache_bytes)
        belongs = await _belongs(blobs.claim, records)
    except EraError as error:
        hint = "Check ERA_BLOBS_URL, and the variables with the store's keys and endpoint."
        raise _unusable("the object store", error, hint) from error
    if not belongs:
        await blobs.close()
        raise StartError(
            "the files of this database are in another place",
            "Set ERA_BLOBS_URL to the store that was used with this database before.",
        )
    return blobs


async def _belongs(claim: Claim, records: DatabaseRecords) -> bool:
    """Whether the store is the database's own; a new database takes whatever it is given."""
    known = await records.known_fact(_IDENTITY)
    if known is not None:
        return await claim(known, fresh=False)
    if await records.holds_files():
        return False
    identity = new_token()
    await claim(identity, fresh=True)
    return await claim(await records.fact(_IDENTITY, identity), fresh=False)


def _unusable(what: str, error: EraError, hint: str) -> StartError:
    return StartError(f"{what} cannot be used: {error.text}", str(error.extra.get("hint") or hint))
