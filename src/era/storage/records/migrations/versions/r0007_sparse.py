"""Objects that have lost half of what they held, and what is left in them, are found at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SPARSE = "live > 0 AND live * 2 <= filled"


def upgrade() -> None:
    """Make the indexes."""
    op.create_index(
        "ix_objects_sparse",
        "objects",
        ["name"],
        sqlite_where=sa.text(SPARSE),
        postgresql_where=sa.text(SPARSE),
    )
    op.create_index("ix_blobs_object", "blobs", ["object"])
