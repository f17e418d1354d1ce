"""Run by Alembic: applies the steps on the connection and in the transaction of `migrate`."""

from __future__ import annotations

from alembic import context

from era.storage.records.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes most of a table only by rebuilding it.
    render_as_batch=True,
)
context.run_migrations()
