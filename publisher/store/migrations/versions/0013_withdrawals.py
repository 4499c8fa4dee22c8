"""when a ticket's withdrawal was requested, when its image expires, and its lineage"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("withdrawal", "expires", "expiry_due"):
        op.add_column("tickets", sa.Column(name, sa.Double()))
    op.add_column("tickets", sa.Column("lineage", sa.String(length=255)))
    op.add_column("tickets", sa.Column("keep", sa.Integer()))
    op.add_column("tickets", sa.Column("older", sa.String(length=16)))
    op.create_index("ix_tickets_expiry_due", "tickets", ["expiry_due"])
    op.create_index("ix_tickets_lineage_owner_id", "tickets", ["lineage", "owner", "id"])
