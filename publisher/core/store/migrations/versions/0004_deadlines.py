"""when a ticket was accepted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tickets", sa.Column("accepted", sa.Double(), server_default="0", nullable=False))
    op.execute("UPDATE tickets SET accepted = created")
