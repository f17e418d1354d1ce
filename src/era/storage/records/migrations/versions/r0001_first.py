"""The first schema: sessions, their manifests with history, stored code, setups, layers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out and not taken from `tables`, which will go on changing.
BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    _sessions()
    _entries()
    _codes()
    _setups()
    _layers()


def _of_session(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["uid"], ["sessions.uid"], name=f"fk_{table}_uid", ondelete="CASCADE"
    )


def _index_where(
    name: str, table: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("uid", KEY, nullable=False),
        sa.Column("id", BYTEWISE, nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("persistent", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_run_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("data_revision", sa.BigInteger(), nullable=False),
        sa.Column("allow_internet", sa.Boolean(), nullable=False),
        sa.Column("allow_public", sa.Boolean(), nullable=False),
        sa.Column("default_timeout_seconds", sa.Double(), nullable=True),
        sa.Column("cpu_count", sa.Integer(), nullable=True),
        sa.Column("memory_mib", sa.Integer(), nullable=True),
        sa.Column("source_id", sa.Text(), nullable=True),
        sa.Column("file_count", sa.BigInteger(), nullable=False),
        sa.Column("dir_count", sa.BigInteger(), nullable=False),
        sa.Column("total_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("files_revision", sa.BigInteger(), nullable=False),
        sa.Column("history_from", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_sessions"),
        sa.UniqueConstraint("id", name="uq_sessions_id"),
        sqlite_autoincrement=True,
    )


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("key", KEY, nullable=False),
        sa.Column("uid", KEY, nullable=False),
        sa.Column("path", BYTEWISE, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=4), nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.SmallInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("uploaded_at_ms", sa.BigInteger(), nullable=False),
        # The name is whole: the naming rules of `tables` are not to be applied to it again.
        sa.CheckConstraint("until > since", name=op.f("ck_entries_interval")),
        _of_session("entries"),
        sa.PrimaryKeyConstraint("key", name="pk_entries"),
    )
    _index_where("uq_entries_current", "entries", ["uid", "path"], "until IS NULL", unique=True)
    op.create_index("ix_entries_uid_since", "entries", ["uid", "since"])
    _index_where("ix_entries_uid_until", "entries", ["uid", "until"], "until IS NOT NULL")
    _index_where("ix_entries_blob", "entries", ["blob"], "blob IS NOT NULL")


def _codes() -> None:
    op.create_table(
        "codes",
        sa.Column("uid", KEY, autoincrement=False, nullable=False),
        sa.Column("code", sa.LargeBinary(), nullable=False),
        sa.Column("description", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        _of_session("codes"),
        sa.PrimaryKeyConstraint("uid", name="pk_codes"),
    )


def _setups() -> None:
    op.create_table(
        "setups",
        sa.Column("uid", KEY, autoincrement=False, nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("queued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("layer", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("spec", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        _of_session("setups"),
        sa.PrimaryKeyConstraint("uid", name="pk_setups"),
    )
    _index_where("ix_setups_pending", "setups", ["queued_at_ms", "uid"], "status = 'pending'")
    op.create_index("ix_setups_layer", "setups", ["layer"])


def _layers() -> None:
    op.create_table(
        "layers",
        sa.Column("key", BYTEWISE, nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_layers"),
    )
    op.create_index("ix_layers_blob", "layers", ["blob"])
