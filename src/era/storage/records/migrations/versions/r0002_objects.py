"""Blobs in an object store, and what a database belongs together with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "objects",
        sa.Column("name", BYTEWISE, nullable=False),
        sa.Column("announced_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("filled", sa.BigInteger(), nullable=False),
        sa.Column("live", sa.BigInteger(), nullable=False),
        sa.Column("abandoned", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_objects"),
    )
    op.create_index(
        "ix_objects_dead",
        "objects",
        ["announced_at_ms"],
        sqlite_where=sa.text("live = 0"),
        postgresql_where=sa.text("live = 0"),
    )
    op.create_table(
        "blobs",
        sa.Column("blob", BYTEWISE, nullable=False),
        sa.Column("object", BYTEWISE, nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("stored_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("blob", name="pk_blobs"),
    )
    op.create_table(
        "facts",
        sa.Column("name", BYTEWISE, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )
