"""Lineages: images that replace each other. A new one may hide, rename or withdraw older ones."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select, update

from publisher.core.errors import InvalidRequest
from publisher.core.ticket import Older, State, Ticket
from publisher.store.database import db_now, tickets
from publisher.store.limits import lock
from publisher.store.ticket_rows import TICKET_COLUMNS, append_history, ticket_of
from publisher.store.tickets import retire, withdraw

_REQUESTED = {Older.HIDE: "to be hidden", Older.RENAME: "to be renamed", Older.WITHDRAW: "withdrawal requested"}
_NOT_DONE = {Older.HIDE: "not hidden", Older.RENAME: "not renamed", Older.WITHDRAW: "not withdrawn"}


def hold_lineage(connection: Connection, ticket: Ticket) -> None:
    """Let no other image of the ticket's lineage be published until the transaction ends, if older ones are replaced.

    Otherwise, two images that are published at the same time would not see each other, and both would stay.
    """
    if ticket.older not in (None, Older.LEAVE):
        lock(connection, f"lineage {ticket.owner} {ticket.lineage}")


def replace_older(connection: Connection, ticket: Ticket, cloud_account: str) -> Sequence[int]:
    """Have workers hide, rename or withdraw what a ticket that was published in this transaction replaces.

    Return those tickets. These are the published tickets of its owner, its lineage and its cloud account, except for
    the one with the highest number, or the `keep` ones: a ticket that was requested earlier and published later does
    not replace a newer one. Left out are those that are hidden or renamed already.

    A ticket whose account is of no use stays as it is and says why. The next publication tries it again.
    """
    if ticket.older in (None, Older.LEAVE):
        return ()
    older = Older(str(ticket.older))
    same = tickets.c.lineage == ticket.lineage, tickets.c.owner == ticket.owner
    query = select(*TICKET_COLUMNS).where(*same, tickets.c.cloud_account == cloud_account)
    # The newest ones are found first: whatever was done with them before, they stay.
    newest = query.where(tickets.c.state == State.PUBLISHED).order_by(tickets.c.id.desc()).limit(ticket.keep or 1)
    oldest_kept = connection.execute(newest).all()[-1].id
    query = query.where(tickets.c.state == State.PUBLISHED, tickets.c.id < oldest_kept)
    if older is not Older.WITHDRAW:
        query = query.where(*(or_(each.is_(None), each != older) for each in (tickets.c.retire, tickets.c.retired)))
    rows = connection.execute(query.order_by(tickets.c.id).with_for_update())
    found = [each for row in rows if (each := ticket_of(row)).state is State.PUBLISHED]
    return [each.id for each in found if _requested(connection, each, older, ticket)]


def _requested(connection: Connection, ticket: Ticket, older: Older, newer: Ticket) -> bool:
    words = f"Replaced by ticket {newer.id} of the lineage '{newer.lineage}': {_REQUESTED[older]}"
    try:
        if older is Older.WITHDRAW:
            return withdraw(connection, ticket, None, words=words, replaced=True)
        retire(connection, ticket, older, words=words)
        return True
    except InvalidRequest as error:
        said = f"{_NOT_DONE[older]}, although newer images of its lineage replace it: {error}"
        same = tickets.c.id == ticket.id, tickets.c.state == State.PUBLISHED
        connection.execute(update(tickets).where(*same).values(error=said, withdrawal=db_now(), modified=db_now()))
        append_history(connection, ticket.id, ticket.state, ticket.state, ticket.phase, f"Still published: {said}")
        return False
