"""Brings a database to the schema this program knows; the steps are Alembic revisions.

Opening a database that is up to date reads one row and loads nothing of Alembic.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from era.errors import InternalError

SCHEMA: Final = "0007"
"""The newest revision in `migrations/versions`."""
_LOCATION: Final = "era.storage.records:migrations"


def current(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return found


def upgrade(connection: Connection) -> None:
    """Take the steps that are missing, inside the transaction of `connection`.

    Raises:
        InternalError: the database was written by a newer version of the service.
    """
    if (found := current(connection)) == SCHEMA:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _LOCATION)
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise InternalError(
            text=f"the database has schema {found}, which is newer than this version of the"
            f" service knows ({SCHEMA}): start the newer version, or restore a backup",
        )
    command.upgrade(config, SCHEMA)
