"""the digest of a ticket's cloud account, as its platform makes it

Before, every platform had OpenStack's: two accounts of another cloud could share one upload limit. Tickets to OpenStack
keep theirs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from publisher.platforms.platform import cloud_account

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_UNCHANGED = ("openstack", "susecloud", "cloudwatt")


def upgrade() -> None:
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
    # Only the package that describes a platform can say what identifies its accounts.
    digests = [
        {"row": row.id, "digest": cloud_account(row.platform, row.account, row.target)}
        for row in connection.execute(query.where(tickets.c.platform.not_in(_UNCHANGED)))
    ]
    if digests:
        same = tickets.c.id == sa.bindparam("row")
        connection.execute(sa.update(tickets).where(same).values(cloud_account=sa.bindparam("digest")), digests)
