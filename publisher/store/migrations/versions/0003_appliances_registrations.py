"""appliances, registrations of images, idempotency keys, numbers of users and roles"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "appliances",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("distribution", sa.String(length=255), nullable=False),
        sa.Column("architecture", sa.String(length=255), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("modified", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.login"], name="fk_appliances_owner", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner", "id", name="pk_appliances"),
    )
    op.execute(
        "INSERT INTO appliances"
        " (owner, id, name, version, description, distribution, architecture, created, modified)"
        " SELECT owner, appliance_id, 'appliance-' || appliance_id, '1', '', 'unknown', 'x86_64',"
        " min(created), min(created) FROM images GROUP BY owner, appliance_id"
    )
    for column in (
        sa.Column("state", sa.String(length=16), server_default="ready", nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("wanted_format", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("downloads", sa.Integer(), server_default="0", nullable=False),
        sa.Column("modified", sa.Double(), server_default="0", nullable=False),
        sa.Column("registered", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Double(), server_default="0", nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("wake_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("wakes", sa.Integer(), server_default="0", nullable=False),
    ):
        op.add_column("images", column)
    op.execute("UPDATE images SET modified = created, registered = created, sent = size, total = size")
    # Callers know the format under this name only.
    op.execute("UPDATE images SET format = 'openstackvmdk' WHERE format = 'vmdk'")
    op.create_index("ix_images_state_wake_at", "images", ["state", "wake_at"])

    for table, name in (("users", "login"), ("roles", "name")):
        op.add_column(table, sa.Column("id", sa.BigInteger(), server_default="0", nullable=False))
        op.execute(
            f"UPDATE {table} SET id ="  # noqa: S608  # the names stand above
            f" (SELECT count(*) FROM {table} AS other WHERE other.{name} <= {table}.{name})"
        )

    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("ticket_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name="fk_idempotency_keys_ticket_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created"])
    op.create_index("ix_idempotency_keys_ticket_id", "idempotency_keys", ["ticket_id"])

    op.add_column("tickets", sa.Column("downloads", sa.Integer(), server_default="0", nullable=False))
    op.add_column("tickets", sa.Column("progressed", sa.Double(), nullable=True))
    op.create_index("ix_tickets_image_id", "tickets", ["image_id"])
