"""what is done with an image that a newer one of its lineage replaces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("retire", "retired"):
        op.add_column("tickets", sa.Column(name, sa.String(length=16)))
    op.create_index("ix_tickets_retire", "tickets", ["retire"])
