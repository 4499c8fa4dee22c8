"""The rows of tickets: select them and read tickets from them. Only `transition` changes a ticket's state."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    case,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from publisher.core.image import Image, image_uri
from publisher.core.ticket import FINAL, TRANSITIONS, Phase, Progress, State, Ticket, shown_cloud_id, ticket_uri
from publisher.core.uris import parse_id
from publisher.store.database import db_now, history, notifications, tickets, users
from publisher.store.images import IMAGE_COLUMNS, image_of_values

_WAKE_AGAIN_LONGEST_SECONDS = 300.0

_WITHDRAWAL_FAILED = "publication.withdrawal_failed"
_WITH_ERROR = (f"publication.{State.FAILED}", _WITHDRAWAL_FAILED)
"""The events whose notifications say what went wrong."""

_PLAIN = [
    "id", "uid", "owner", "appliance_id", "image_id", "platform", "account", "sealed_secrets", "target", "name",
    "attempt", "cloud_id", "shown_id", "location", "error", "error_detail", "created", "modified", "started",
    "finished", "not_before", "lease_token", "worker", "account_id", "downloads", "progressed", "accepted",
    "reason", "request_id", "traceparent", "failure", "withdrawal", "expires",
    "lineage", "keep", "older", "retire", "retired",
]  # fmt: skip

TICKET_COLUMNS = [tickets.c[name] for name in (*_PLAIN, "state", "phase", "sent", "total")]

_NOT_LISTED: dict[str, Any] = {
    "account": {},
    "sealed_secrets": None,
    "target": {},
    "error_detail": None,
    "location": None,
}
"""Values for the columns that a brief list does not read."""
_LISTED_COLUMNS = [each for each in TICKET_COLUMNS if each.name not in _NOT_LISTED]
_NOT_IN_STATUS: dict[str, Any] = {
    "account": {},
    "sealed_secrets": None,
    "target": {},
    "name": "",
    "cloud_id": None,
    "shown_id": None,
    "finished": None,
    "not_before": 0.0,
    "lease_token": 0,
    "account_id": None,
    "downloads": 0,
    "accepted": 0.0,
    "request_id": None,
    "traceparent": None,
    "failure": None,
    "expires": None,
    "lineage": None,
    "keep": None,
    "older": None,
}
"""Values for the columns that no status shows."""
_STATUS_COLUMNS = [each for each in TICKET_COLUMNS if each.name not in _NOT_IN_STATUS]
"""The columns that a status is made of. None is JSON, which takes long to decode."""
_NAMES = [each.name for each in TICKET_COLUMNS]
_STATUS_NAMES = [each.name for each in _STATUS_COLUMNS]
_NOTIFIED_COLUMNS = [
    tickets.c[name]
    for name in (
        "id", "owner", "appliance_id", "image_id", "platform", "name", "state", "cloud_id", "shown_id",
        "location", "error", "modified", "notify_url", "expires",
    )
]  # fmt: skip

# Built once: building a statement costs more than executing it.
_NOTIFIED = (
    select(*_NOTIFIED_COLUMNS, users.c.notify_url.label("owner_url"))
    .join(users, users.c.login == tickets.c.owner, isouter=True)
    .where(tickets.c.id == bindparam("ticket"))
)
_HISTORY = insert(history).values(
    ticket_id=bindparam("ticket"),
    at=db_now(),
    from_state=bindparam("before"),
    to_state=bindparam("after"),
    phase=bindparam("step"),
    words=bindparam("said"),
)

VERSION_COLUMNS = [tickets.c[name] for name in ("modified", "progressed", "state", "phase", "sent")]

Version = tuple[float, float | None, str, str, int]
"""A value that changes whenever anything in a ticket changes that callers see."""


def version_of(ticket: Ticket) -> Version:
    """Return the same values as `VERSION_COLUMNS` of the ticket's row."""
    return ticket.modified, ticket.progressed, ticket.state, ticket.phase, ticket.progress.sent


class Extent(Enum):
    """What is read of a ticket, depending on what the answer shows."""

    STATUS = "what its status shows"
    WHOLE = "the ticket and the image that now has the number of its image"


@dataclass(frozen=True, slots=True)
class TicketFilter:
    """Which tickets to select. None matches any, and so does an empty text in `platform` and `words`."""

    owner: str | None = None
    appliance_id: int | None = None
    image_id: int | None = None
    state: State | None = None
    platform: str | None = None
    words: str = ""
    """A part of the name, in upper or lower case, or the ticket's id."""
    ids: Collection[int] | None = None
    platforms: Collection[str] | None = None

    @property
    def number(self) -> list[int]:
        """The id that the words name, if they name one."""
        id = parse_id(self.words.removeprefix("#"))
        return [] if id is None else [id]

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [
            tickets.c[name] == wanted
            for name in ("owner", "appliance_id", "image_id", "state")
            if (wanted := getattr(self, name)) is not None
        ]
        if self.platform:
            found.append(tickets.c.platform == self.platform)
        if self.words:
            named = tickets.c.name.icontains(self.words, autoescape=True)
            found.append(or_(named, *(tickets.c.id == id for id in self.number)))
        if self.platforms is not None:
            found.append(tickets.c.platform.in_(sorted(self.platforms)))
        if self.ids is not None:
            found.append(tickets.c.id.in_(self.ids))
        return found


def select_tickets(
    wanted: TicketFilter,
    *,
    count: int | None = None,
    before: int | None = None,
    after: int | None = None,
    newest_first: bool = False,
    brief: bool = False,
) -> Select[Any]:
    """Select at most `count` tickets, with an id below `before` or above `after`.

    With `brief`, accounts and targets are left out, which a list for people does not show.
    """
    query = select(*(_LISTED_COLUMNS if brief else TICKET_COLUMNS)).where(*wanted.conditions()).limit(count)
    if before is not None:
        query = query.where(tickets.c.id < before)
    if after is not None:
        query = query.where(tickets.c.id > after)
    return query.order_by(tickets.c.id.desc() if newest_first else tickets.c.id)


def ticket_of(row: Row[Any], *, brief: bool = False) -> Ticket:
    """Build a ticket from a row; `brief` as in `select_tickets`."""
    values = dict(zip(row._fields, row, strict=True))
    return _ticket(values | _NOT_LISTED if brief else values)


def extent_columns(extent: Extent) -> Sequence[Column[Any]]:
    """Return the columns for `ticket_and_image`."""
    return _STATUS_COLUMNS if extent is Extent.STATUS else [*TICKET_COLUMNS, *IMAGE_COLUMNS]


def ticket_and_image(extent: Extent, values: Sequence[Any]) -> tuple[Ticket | None, Image | None]:
    """Build a ticket and its image from the values of `extent_columns`. An outer join finds none, or one without the
    other."""
    if values[0] is None:
        return None, None
    if extent is Extent.STATUS:
        return _ticket(dict(zip(_STATUS_NAMES, values, strict=True)) | _NOT_IN_STATUS), None
    of_ticket, of_image = values[: len(_NAMES)], values[len(_NAMES) :]
    ticket = _ticket(dict(zip(_NAMES, of_ticket, strict=True)))
    return ticket, None if of_image[0] is None else image_of_values(of_image)


def _ticket(values: Mapping[str, Any]) -> Ticket:
    return Ticket(
        **{name: values[name] for name in _PLAIN},
        state=State(values["state"]),
        phase=Phase(values["phase"]),
        progress=Progress(values["sent"], values["total"]),
    )


def wake_delay(table: Table, first_seconds: float) -> ColumnElement[float]:
    """Return how long until a row of the table is woken again. Grows each time, so that a long queue does not fill with
    copies of its messages."""
    growing = first_seconds * (1 + table.c.wakes * table.c.wakes)
    return case((growing > _WAKE_AGAIN_LONGEST_SECONDS, _WAKE_AGAIN_LONGEST_SECONDS), else_=growing)


def transition(
    connection: Connection,
    ticket_id: int,
    from_state: State,
    to_state: State,
    *guards: ColumnElement[bool],
    words: str,
    **values: Any,
) -> bool:
    """Change a ticket's state by a guarded UPDATE. Return False, and write nothing, if a guard does not hold.

    Also writes the entry of its history and, for a final state, the notifications. Raises `ValueError` for a transition
    that is not in the table, which is a programming error.
    """
    statement = transition_statement(*guards, **values)
    return make_transition(connection, statement, ticket_id, from_state, to_state, words=words) is not None


def transition_statement(
    *guards: ColumnElement[bool], returning: Sequence[Column[Any]] = (tickets.c.phase,), **values: Any
) -> ReturningUpdate[Any]:
    """Build the UPDATE of a transition, for `make_transition`. `returning` must include the phase."""
    return (
        update(tickets)
        .where(tickets.c.id == bindparam("ticket"), tickets.c.state == bindparam("from_state"), *guards)
        .values(state=bindparam("to_state"), modified=db_now(), **values)
        .returning(*returning)
    )


def make_transition(
    connection: Connection,
    statement: ReturningUpdate[Any],
    ticket_id: int,
    from_state: State,
    to_state: State,
    *,
    words: str,
    **parameters: Any,
) -> Row[Any] | None:
    """Do as `transition`, with a statement that was built before. Returns what it returns; None if a guard failed."""
    if (from_state, to_state) not in TRANSITIONS:
        raise ValueError(f"no transition from {from_state} to {to_state}")
    given = {"ticket": ticket_id, "from_state": from_state, "to_state": to_state, **parameters}
    row = connection.execute(statement, given).one_or_none()
    if row is None:
        return None
    append_history(connection, ticket_id, from_state, to_state, row.phase, words)
    if to_state in FINAL:
        # The end of a withdrawal that the cloud refused is no second publication.
        refused = from_state is State.WITHDRAWING and to_state is State.PUBLISHED
        enqueue_webhooks(connection, ticket_id, _WITHDRAWAL_FAILED if refused else f"publication.{to_state}")
    return row


def append_history(
    connection: Connection,
    ticket_id: int,
    from_state: State | None,
    to_state: State,
    phase: Phase,
    words: str,
) -> None:
    """Write one entry of a ticket's history."""
    entry = {"ticket": ticket_id, "before": from_state, "after": to_state, "step": phase, "said": words}
    connection.execute(_HISTORY, entry)


def enqueue_webhooks(connection: Connection, ticket_id: int, event: str) -> None:
    """Add the notifications of an event, to the webhook of the ticket's request and to its owner's, if set.

    They are written in the transaction of the event itself and sent later. So no notification is sent for something
    that did not happen, and none is lost if a process dies in between.
    """
    row = connection.execute(_NOTIFIED, {"ticket": ticket_id}).one()
    for url in sorted({row.notify_url, row.owner_url} - {None}):
        connection.execute(
            insert(notifications).values(
                uid=f"msg_{uuid.uuid4().hex}",
                ticket_id=row.id,
                owner=row.owner,
                url=url,
                event=event,
                body=json.dumps({"type": event, **_content(row, event)}, separators=(",", ":")),
                state="waiting",
                attempt=0,
                next_at=db_now(),
                created=db_now(),
            )
        )


def _content(row: Any, event: str) -> dict[str, Any]:
    uri = ticket_uri(row.owner, row.appliance_id, row.image_id, row.id)
    data = {
        "ticket": row.id,
        "uri": uri,
        "statusUri": f"{uri}/status",
        "imageUri": image_uri(row.owner, row.appliance_id, row.image_id),
        "platform": row.platform,
        "name": row.name,
        "state": row.state,
        "cloudId": shown_cloud_id(row.cloud_id, row.shown_id),
        "publishLocation": row.location,
        # A cancelled ticket may have an error from an earlier attempt.
        "error": row.error if event in _WITH_ERROR else None,
        "expires": None if row.expires is None else _moment(row.expires),
    }
    return {
        "timestamp": _moment(row.modified),
        "data": {name: value for name, value in data.items() if value is not None},
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
