"""when a ticket was accepted, which cloud account it is for, and what the sweeper remembers"""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tickets", sa.Column("accepted", sa.Double(), server_default="0", nullable=False))
    op.execute("UPDATE tickets SET accepted = created")
    op.add_column("tickets", sa.Column("cloud_account", sa.String(length=64), server_default="", nullable=False))
    _fill_cloud_accounts()
    op.create_index("ix_tickets_cloud_account_state_id", "tickets", ["cloud_account", "state", "id"])
    op.create_index("ix_tickets_owner_state_id", "tickets", ["owner", "state", "id"])

    op.create_table(
        "tombstones",
        sa.Column("ticket_uid", sa.String(length=36), nullable=False),
        sa.Column("cloud_id", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_uid", "cloud_id", name="pk_tombstones"),
    )
    op.create_table(
        "sightings",
        sa.Column("ticket_uid", sa.String(length=36), nullable=False),
        sa.Column("cloud_id", sa.String(length=255), nullable=False),
        sa.Column("first", sa.Double(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_uid", "cloud_id", name="pk_sightings"),
    )


def _fill_cloud_accounts() -> None:
    """As publisher.platforms.platform.cloud_account told it when this was written."""
    tickets = sa.table(
        "tickets",
        sa.column("id", sa.BigInteger),
        sa.column("platform", sa.String),
        sa.column("account", sa.JSON),
        sa.column("target", sa.JSON),
        sa.column("cloud_account", sa.String),
    )
    connection = op.get_bind()
    query = sa.select(tickets.c.id, tickets.c.platform, tickets.c.account, tickets.c.target)
    digests = []
    for row in connection.execute(query):
        address = str(row.account.get("keystoneUrl") or "").lower().rstrip("/")
        address = address.removesuffix("/v3").removesuffix("/v2.0").rstrip("/")
        project = row.target.get("keystoneProject") or row.target.get("tenantName") or ""
        domain = row.target.get("keystoneDomain") or "default"
        parts = [row.platform, address, row.account.get("login") or "", domain, project]
        digests.append({"row": row.id, "digest": hashlib.sha256(json.dumps(parts).encode()).hexdigest()})
    if digests:
        same = tickets.c.id == sa.bindparam("row")
        connection.execute(sa.update(tickets).where(same).values(cloud_account=sa.bindparam("digest")), digests)
