"""why a ticket fails as soon as its leftovers are deleted

It was a part of the error's text, from which the workers read it back.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SEPARATOR = "; cleaning up: "


def upgrade() -> None:
    op.add_column("tickets", sa.Column("failure", sa.Text()))
    tickets = sa.table(
        "tickets",
        sa.column("id", sa.BigInteger),
        sa.column("state", sa.String),
        sa.column("error", sa.Text),
        sa.column("failure", sa.Text),
    )
    connection = op.get_bind()
    going_on = tickets.c.state.in_(("queued", "publishing"))
    query = sa.select(tickets.c.id, tickets.c.error).where(going_on, tickets.c.error.contains(_SEPARATOR))
    failures = [{"row": row.id, "words": row.error.partition(_SEPARATOR)[0]} for row in connection.execute(query)]
    if failures:
        same = tickets.c.id == sa.bindparam("row")
        connection.execute(sa.update(tickets).where(same).values(failure=sa.bindparam("words")), failures)
