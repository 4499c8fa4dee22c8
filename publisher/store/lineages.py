"""Lineages: images that replace each other. When a new one is published, those beyond the newest ones are withdrawn."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from publisher.core.errors import InvalidRequest
from publisher.core.ticket import Older, State, Ticket
from publisher.store.database import db_now, tickets
from publisher.store.limits import lock
from publisher.store.ticket_rows import TICKET_COLUMNS, append_history, ticket_of
from publisher.store.tickets import withdraw


def hold_lineage(connection: Connection, ticket: Ticket) -> None:
    """Let no other image of the ticket's lineage be published until the transaction ends, if older ones are withdrawn.

    Otherwise, two images that are published at the same time would not see each other, and both would stay.
    """
    if ticket.older == Older.WITHDRAW:
        lock(connection, f"lineage {ticket.owner} {ticket.lineage}")


def withdraw_older(connection: Connection, ticket: Ticket, cloud_account: str) -> Sequence[int]:
    """Begin the withdrawal of what a ticket that was published in this transaction replaces. Return those tickets.

    These are the published tickets of its owner, its lineage and its cloud account, except for the `keep` ones with the
    highest numbers: a ticket that was requested earlier and published later does not replace a newer one.

    A ticket whose account is of no use stays published and says why. The next publication tries it again.
    """
    if ticket.older != Older.WITHDRAW or not ticket.keep:
        return ()
    same = tickets.c.lineage == ticket.lineage, tickets.c.owner == ticket.owner
    query = select(*TICKET_COLUMNS).where(*same, tickets.c.cloud_account == cloud_account)
    query = query.where(tickets.c.state == State.PUBLISHED).order_by(tickets.c.id.desc()).offset(ticket.keep)
    older = [ticket_of(row) for row in connection.execute(query)]
    words = f"Replaced by ticket {ticket.id} of the lineage '{ticket.lineage}': withdrawal requested"
    return [each.id for each in older if _begun(connection, each, words)]


def _begun(connection: Connection, ticket: Ticket, words: str) -> bool:
    try:
        return withdraw(connection, ticket, None, words=words)
    except InvalidRequest as error:
        said = f"not withdrawn, although newer images of its lineage replace it: {error}"
        same = tickets.c.id == ticket.id, tickets.c.state == State.PUBLISHED
        connection.execute(update(tickets).where(*same).values(error=said, withdrawal=db_now(), modified=db_now()))
        append_history(connection, ticket.id, ticket.state, ticket.state, ticket.phase, f"Still published: {said}")
        return False
