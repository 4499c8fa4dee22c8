"""with what to look for what a deleted ticket left in a cloud"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tombstones", sa.Column("platform", sa.String(length=32)))
    op.add_column("tombstones", sa.Column("account", sa.JSON()))
    op.add_column("tombstones", sa.Column("target", sa.JSON()))
    op.add_column("tombstones", sa.Column("sealed_secrets", sa.LargeBinary()))
