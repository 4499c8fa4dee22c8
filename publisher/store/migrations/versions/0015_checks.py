"""what workers are asked to check while a caller waits, and what the last test of an account found"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("explored", sa.JSON()))
    op.create_table(
        "checks",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("platform", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.BigInteger()),
        sa.Column("account", sa.JSON(), nullable=False),
        sa.Column("sealed_secrets", sa.LargeBinary()),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("image_id", sa.BigInteger()),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("finished", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checks")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_checks_owner"), "checks", ["owner"])
