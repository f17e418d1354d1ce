"""How many sessions there are, kept up to date instead of counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and count once."""
    counts = op.create_table(
        "counts",
        sa.Column("stripe", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sessions", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stripe", name="pk_counts"),
    )
    op.bulk_insert(counts, [{"stripe": stripe, "sessions": 0} for stripe in range(16)])
    op.execute(
        "UPDATE counts SET sessions ="
        " (SELECT count(*) FROM sessions WHERE sessions.uid % 16 = counts.stripe)"
    )
