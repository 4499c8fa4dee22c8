"""The present values of a ticket's stored account, for when the ticket is retried."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, exists, select

from publisher.core.errors import Conflict
from publisher.core.ticket import Ticket
from publisher.platforms.platform import cloud_account, image_service, platform_of
from publisher.store.tables import accounts, journal, tickets


def present_account(connection: Connection, ticket: Ticket) -> tuple[dict[str, Any], str]:
    """Return what to change in the ticket's row, and words for its history; nothing if it named no stored account.

    Corrections to the stored account, such as a new password or address, are used. What the request gave itself stays.
    If the account was deleted, or the request gave its secrets itself, the ticket keeps the values it has.

    Raises `Conflict` if the account leads to another image service now, and this ticket may have left something in the
    previous one, which can only be deleted with the previous credentials.
    """
    if ticket.account_id is None:
        return {}, ""
    mine = accounts.c.id == ticket.account_id, accounts.c.owner == ticket.owner
    columns = accounts.c.name, accounts.c.fields, accounts.c.sealed_secrets
    stored = connection.execute(select(*columns).where(*mine)).one_or_none()
    if stored is None:
        return {}, "; its account was deleted, so with what was known of it"
    query = select(tickets.c.own_elements).where(tickets.c.id == ticket.id)
    own = set(connection.execute(query).scalar_one_or_none() or ())
    if _is_apart(ticket, own, stored.fields):
        return {}, "; the request gave of its account itself what that would change, so as it was"
    account = stored.fields | {name: ticket.account[name] for name in own & set(ticket.account)} | {"name": stored.name}
    before = image_service(ticket.platform, ticket.account, ticket.target)
    if image_service(ticket.platform, account, ticket.target) != before and _left_something(connection, ticket):
        raise Conflict(
            f"ticket {ticket.id} may have left something in the cloud, and its account '{stored.name}' leads to another"
            " one now; publish the image anew, and what is left is removed by the sweeper"
        )
    found = {
        "account": account,
        "sealed_secrets": stored.sealed_secrets,
        "cloud_account": cloud_account(ticket.platform, account, ticket.target),
    }
    return found, f", with the account '{stored.name}' as it is now"


def _is_apart(ticket: Ticket, own: set[str], stored: dict[str, Any]) -> bool:
    """Return whether the ticket must keep its own values.

    This is so if the request gave the secrets itself. It is also so if the request gave a part of the address and
    another part has changed in the account. In both cases secrets would go to an address that they were not meant for.
    """
    # Elements that the request gave itself, and that are not stored in clear, are secrets.
    if own - set(ticket.account):
        return True
    routing = platform_of(ticket.platform).secret_routing
    of_the_account = [name for name in routing if name not in own]
    leads_elsewhere = any(stored.get(name) != ticket.account.get(name) for name in of_the_account)
    return leads_elsewhere and not own.isdisjoint(routing)


def _left_something(connection: Connection, ticket: Ticket) -> bool:
    left = exists().where(journal.c.ticket_id == ticket.id, journal.c.state != "gone")
    return bool(connection.execute(select(left)).scalar())
