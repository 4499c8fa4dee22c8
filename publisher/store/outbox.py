"""Webhook notifications of a ticket's end: written in the transaction that ends the ticket, sent later.

So no notification is sent for something that did not happen, and none is lost if a process dies in between.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from publisher.core.ticket import State
from publisher.core.uris import image_uri, ticket_uri
from publisher.store.engine import db_now
from publisher.store.tables import notifications, tickets, users

_COLUMNS = [
    tickets.c[name]
    for name in (
        "id", "owner", "appliance_id", "image_id", "platform", "name", "state", "cloud_id", "location", "error",
        "finished", "notify_url",
    )
]  # fmt: skip


def enqueue_webhooks(connection: Connection, ticket_id: int) -> None:
    """Add the notifications for a ticket that has just ended: to its request's webhook and to its owner's, if set."""
    query = (
        select(*_COLUMNS, users.c.notify_url.label("owner_url"))
        .join(users, users.c.login == tickets.c.owner, isouter=True)
        .where(tickets.c.id == ticket_id)
    )
    row = connection.execute(query).one()
    for url in sorted({row.notify_url, row.owner_url} - {None}):
        event = f"publication.{row.state}"
        connection.execute(
            insert(notifications).values(
                uid=f"msg_{uuid.uuid4().hex}",
                ticket_id=row.id,
                owner=row.owner,
                url=url,
                event=event,
                body=json.dumps({"type": event, **_content(row)}, separators=(",", ":")),
                state="waiting",
                attempt=0,
                next_at=db_now(),
                created=db_now(),
            )
        )


def _content(row: Any) -> dict[str, Any]:
    uri = ticket_uri(row.owner, row.appliance_id, row.image_id, row.id)
    data = {
        "ticket": row.id,
        "uri": uri,
        "statusUri": f"{uri}/status",
        "imageUri": image_uri(row.owner, row.appliance_id, row.image_id),
        "platform": row.platform,
        "name": row.name,
        "state": row.state,
        "cloudId": row.cloud_id,
        "publishLocation": row.location,
        # A cancelled ticket may have an error from an earlier attempt.
        "error": row.error if row.state == State.FAILED else None,
    }
    moment = datetime.fromtimestamp(row.finished, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": moment, "data": {name: value for name, value in data.items() if value is not None}}
