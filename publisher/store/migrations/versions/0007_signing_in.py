"""what a request gave itself of a stored account, and which accounts refuse the sweeper"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tickets", sa.Column("own_elements", sa.JSON()))
    op.create_table(
        "sweep_refusals",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_sweep_refusals")),
    )
