"""Copies share the entries of the session they were made from: these may outlive it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Note of each session whose entries it has; take the foreign key off the entries."""
    op.add_column("sessions", sa.Column("base_uid", sa.BigInteger(), nullable=True))
    op.add_column("sessions", sa.Column("base_revision", sa.BigInteger(), nullable=True))
    _index("ix_sessions_base", "sessions", ["base_uid", "base_revision"], "base_uid IS NOT NULL")
    op.create_table(
        "orphans",
        sa.Column("uid", KEY, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_orphans"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _entries_anew()
    else:
        op.drop_constraint("fk_entries_uid", "entries", type_="foreignkey")
    _index("ix_entries_uid_path_until", "entries", ["uid", "path", "until"], "until IS NOT NULL")


def _entries_anew() -> None:
    """SQLite takes a foreign key off a table only by making the table again."""
    op.execute("ALTER TABLE entries RENAME TO entries_before")
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
        sa.CheckConstraint("until > since", name=op.f("ck_entries_interval")),
        sa.PrimaryKeyConstraint("key", name="pk_entries"),
    )
    op.execute("INSERT INTO entries SELECT * FROM entries_before")  # the same columns
    op.drop_table("entries_before")  # its indexes go with it, and their names are free
    _index("uq_entries_current", "entries", ["uid", "path"], "until IS NULL", unique=True)
    op.create_index("ix_entries_uid_since", "entries", ["uid", "since"])
    _index("ix_entries_uid_until", "entries", ["uid", "until"], "until IS NOT NULL")
    _index("ix_entries_blob", "entries", ["blob"], "blob IS NOT NULL")


def _index(
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
