"""what an image's owner should know about its file, and why Glance would refuse it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("warning", sa.Text()))
    op.add_column("images", sa.Column("glance_objection", sa.Text()))
