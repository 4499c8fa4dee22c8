"""workers that say that they live, sessions, notifications, the audit log, and how uploads went on"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_ONLY_ADDED_TO = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{event} BEFORE {event} ON audit"
        " BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END"
        for event in ("update", "delete")
    ]
    + [
        # What INSERT OR REPLACE takes away fires no trigger of its own.
        "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)"
        " BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION audit_only_added_to() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the audit log is only ever added to'; END $$",
        "CREATE TRIGGER audit_only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_only_added_to()",
    ],
}


def upgrade() -> None:
    op.add_column("users", sa.Column("notify_url", sa.Text()))
    op.add_column("users", sa.Column("sealed_notify_secret", sa.LargeBinary()))
    op.add_column("tickets", sa.Column("reason", sa.String(length=32)))
    op.add_column("tickets", sa.Column("request_id", sa.String(length=64)))
    op.add_column("tickets", sa.Column("traceparent", sa.String(length=64)))
    op.add_column("tickets", sa.Column("notify_url", sa.Text()))
    op.create_index("ix_tickets_finished", "tickets", ["finished"])
    op.create_index("ix_tickets_state_id", "tickets", ["state", "id"])
    op.create_index("ix_tickets_owner_id", "tickets", ["owner", "id"])
    op.create_index("ix_tickets_platform_id", "tickets", ["platform", "id"])

    op.create_table(
        "ticket_samples",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("ticket_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ticket_samples"),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_ticket_samples_ticket_id", ondelete="CASCADE"),
    )
    op.create_index("ix_ticket_samples_ticket_id", "ticket_samples", ["ticket_id"])
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("drain", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("stopped", sa.Double()),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("login", sa.String(length=255), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_sessions"),
        sa.ForeignKeyConstraint(["login"], ["users.login"], name="fk_sessions_login", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_login", "sessions", ["login"])
    op.create_index("ix_sessions_expires", "sessions", ["expires"])
    op.create_table(
        "notifications",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("uid", sa.String(length=36), nullable=False),
        sa.Column("ticket_id", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        sa.UniqueConstraint("uid", name="uq_notifications_uid"),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_notifications_ticket_id", ondelete="CASCADE"),
    )
    op.create_index("ix_notifications_ticket_id", "notifications", ["ticket_id"])
    op.create_index("ix_notifications_state_next_at", "notifications", ["state", "next_at"])
    op.create_table(
        "audit",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("door", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64)),
        sa.Column("request_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    for statement in _ONLY_ADDED_TO[op.get_bind().dialect.name]:
        op.execute(statement)
