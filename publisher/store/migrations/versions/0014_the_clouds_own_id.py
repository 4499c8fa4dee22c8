"""the id that the cloud itself gave an image, beside the handle that stands for all parts of the publication"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tickets", sa.Column("shown_id", sa.Text()))
