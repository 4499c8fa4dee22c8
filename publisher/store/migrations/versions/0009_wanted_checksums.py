"""the checksums that a caller says an image has"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("wanted_md5", sa.String(length=32)))
    op.add_column("images", sa.Column("wanted_sha256", sa.String(length=64)))
