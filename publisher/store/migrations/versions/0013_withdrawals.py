"""when a ticket's withdrawal was requested, and when its image expires"""

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
    op.create_index("ix_tickets_expiry_due", "tickets", ["expiry_due"])
