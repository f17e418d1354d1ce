"""Managed VMs: sessions' rows with more beside them, and how many there are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, and the row that counts."""
    op.create_table(
        "vms",
        sa.Column("uid", KEY, autoincrement=False, nullable=False),
        sa.Column("network_mode", sa.Text(), nullable=False),
        sa.Column("persist", sa.Boolean(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["sessions.uid"], name="fk_vms_uid", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("uid", name="pk_vms"),
    )
    op.execute("INSERT INTO counts (stripe, sessions) VALUES (16, 0)")
