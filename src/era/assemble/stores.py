"""Which keepers the settings name."""

from __future__ import annotations

import asyncio

from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.errors import EraError
from era.storage.base import Records


async def open_records(settings: Settings, state: StateDir) -> Records:
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
        raise StartError(
            f"the database cannot be used: {error.text}",
            str(error.extra.get("hint") or "Check ERA_DATABASE_URL, and that the server answers."),
        ) from error
