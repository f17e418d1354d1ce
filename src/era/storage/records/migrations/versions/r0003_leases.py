"""Leases: which node serves a session, which one does a setup."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, and the columns of setups."""
    op.create_table(
        "leases",
        sa.Column("uid", KEY, autoincrement=False, nullable=False),
        sa.Column("owner", BYTEWISE, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("queued", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["uid"], ["sessions.uid"], name="fk_leases_uid", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("uid", name="pk_leases"),
    )
    op.create_index("ix_leases_owner", "leases", ["owner"])
    _index_where("ix_leases_held", "leases", "until_ms > 0")
    op.add_column("setups", sa.Column("owner", BYTEWISE, nullable=True))
    op.add_column("setups", sa.Column("until_ms", sa.BigInteger(), nullable=True))
    op.add_column("setups", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
    _index_where("ix_setups_running", "setups", "status = 'running'")


def _index_where(name: str, table: str, condition: str) -> None:
    op.create_index(
        name,
        table,
        ["until_ms"],
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )
