"""Tickets for callers and the reconciler: read, cancel, retry, withdraw, wake. For the workers' side see `leases`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, delete, exists, insert, or_, select, update

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.ticket import (
    FINAL,
    HELD,
    CloudRef,
    HistoryEntry,
    Older,
    Phase,
    Sample,
    State,
    Ticket,
    ticket_uri,
)
from publisher.platforms.platform import CRED_ACCOUNT, cloud_account, image_service, platform_of
from publisher.store.database import (
    accounts,
    audit_change,
    db_now,
    history,
    images,
    journal,
    reading,
    samples,
    tickets,
    tombstones,
    writing,
)
from publisher.store.images import hold_ready_images
from publisher.store.limits import UploadSlots
from publisher.store.new_tickets import (
    missing_image,
)
from publisher.store.registrations import IMAGE_DUE
from publisher.store.ticket_rows import (
    TICKET_COLUMNS,
    VERSION_COLUMNS,
    TicketFilter,
    Version,
    append_history,
    select_tickets,
    ticket_of,
    transition,
    wake_delay,
)

_IDS_AT_ONCE = 1000
"""Maximum number of ids in one statement: databases limit its parameters."""

_WAKES_BEFORE_HASTE = 2
"""A ticket that was woken less often got its message only some seconds ago."""


@dataclass(frozen=True, slots=True)
class AccountGiven:
    """An account that a request gives, to sign in for a withdrawal."""

    fields: dict[str, Any]
    sealed_secrets: bytes = field(repr=False)


_DUE = and_(
    tickets.c.wake_at <= db_now(),
    or_(
        and_(tickets.c.state == State.QUEUED, tickets.c.not_before <= db_now()),
        and_(tickets.c.state.in_(HELD), tickets.c.lease_until < db_now()),
    ),
)
"""A worker should hold the ticket, but none does."""
_RETIREMENT_DUE = and_(
    # Only a published ticket has these values, and few have.
    tickets.c.retire.in_((Older.HIDE, Older.RENAME)),
    tickets.c.wake_at <= db_now(),
    tickets.c.lease_until < db_now(),
)
"""A worker should hide or rename the ticket's image, but none does."""

# Built once, because the reconciler executes it every few seconds.
_ANYTHING_DUE = select(
    or_(
        exists().where(_DUE),
        exists().where(_RETIREMENT_DUE),
        exists().where(tickets.c.state == State.QUEUED, tickets.c.wakes >= _WAKES_BEFORE_HASTE),
        exists().where(IMAGE_DUE),
    )
)

_URI_COLUMNS = [tickets.c[name] for name in ("owner", "appliance_id", "image_id", "id")]


class Tickets:
    """Tickets for callers and the reconciler. Each method is a transaction of its own."""

    def __init__(self, engine: Engine, *, wake_again_seconds: float, slots: UploadSlots) -> None:
        self._engine = engine
        self._slots = slots
        self._wake_again_seconds = wake_again_seconds

    def get(self, id: int) -> Ticket | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(*TICKET_COLUMNS).where(tickets.c.id == id)).one_or_none()
        return ticket_of(row) if row else None

    def _required(self, id: int) -> Ticket:
        found = self.get(id)
        if found is None:
            raise _none(id)
        return found

    def versions(self, ids: Collection[int]) -> dict[int, Version]:
        """Return a value for each ticket that tells whether it has changed. Deleted tickets are left out."""
        columns = tickets.c.id, *VERSION_COLUMNS
        with reading(self._engine) as connection:
            return {
                id: (modified, progressed, state, phase, sent)
                for part in _parts(ids)
                for id, modified, progressed, state, phase, sent in connection.execute(
                    select(*columns).where(tickets.c.id.in_(part))
                )
            }

    def several(self, ids: Collection[int]) -> dict[int, Ticket]:
        """Return those of these tickets that exist, by their ids."""
        with reading(self._engine) as connection:
            return {
                row.id: ticket_of(row)
                for part in _parts(ids)
                for row in connection.execute(select_tickets(TicketFilter(ids=part)))
            }

    def list(
        self,
        *,
        owner: str | None = None,
        appliance_id: int | None = None,
        image_id: int | None = None,
        state: State | None = None,
        platform: str | None = None,
        before: int | None = None,
        count: int | None = None,
        newest_first: bool = False,
    ) -> list[Ticket]:
        """Return the tickets that match, at most `count` and with an id below `before`, by default the oldest first."""
        wanted = TicketFilter(owner, appliance_id, image_id, state, platform)
        query = select_tickets(wanted, before=before, count=count, newest_first=newest_first)
        with reading(self._engine) as connection:
            return [ticket_of(row) for row in connection.execute(query)]

    def history(self, id: int) -> Sequence[HistoryEntry]:
        query = select(history).where(history.c.ticket_id == id).order_by(history.c.id)
        with reading(self._engine) as connection:
            return [
                HistoryEntry(
                    row.at,
                    State(row.from_state) if row.from_state else None,
                    State(row.to_state),
                    Phase(row.phase),
                    row.words,
                )
                for row in connection.execute(query)
            ]

    def samples(self, id: int) -> Sequence[Sample]:
        """Return the progress samples of its uploads, oldest first."""
        query = select(samples.c.attempt, samples.c.at, samples.c.sent).where(samples.c.ticket_id == id)
        with reading(self._engine) as connection:
            return [Sample(*row) for row in connection.execute(query.order_by(samples.c.id))]

    def journal(self, id: int) -> Sequence[CloudRef]:
        """Return the cloud objects that the ticket has created, or may have created, oldest first."""
        query = select(journal).where(journal.c.ticket_id == id).order_by(journal.c.created)
        with reading(self._engine) as connection:
            return [CloudRef(row.cloud_id, row.state, row.created, row.modified) for row in connection.execute(query)]

    def request_cancel(self, id: int) -> Ticket:
        """Cancel a ticket: at once if no cloud was touched, otherwise a worker stops and cleans up first.

        Raises `NotFound`, or `Conflict` if the ticket has ended already. Can be repeated.
        """
        # The state may change between reading and writing. Each write is guarded, so read again and retry.
        cancelled = False
        for _ in range(10):
            ticket = self._required(id)
            if ticket.state is State.CANCELLING or (cancelled and ticket.state is State.CANCELLED):
                return ticket
            if ticket.final:
                raise Conflict(f"ticket {id} has ended already: {ticket.state}")
            if ticket.state is State.WITHDRAWING:
                raise Conflict(f"ticket {id} is being withdrawn, which cannot be cancelled")
            cancelled = self._cancel_from(ticket)
        raise Conflict(f"ticket {id} changes too fast to be cancelled; try again")

    def _cancel_from(self, ticket: Ticket) -> bool:
        touched = any(ref.state != "gone" for ref in self.journal(ticket.id))
        at_once = ticket.state is State.QUEUED and not touched
        # A ticket that no worker holds is due at once, for the clean-up.
        values: dict[str, Any] = {"finished": db_now()} if at_once else {"wake_at": db_now(), "wakes": 0}
        with writing(self._engine) as connection:
            cancelled = transition(
                connection,
                ticket.id,
                ticket.state,
                State.CANCELLED if at_once else State.CANCELLING,
                tickets.c.lease_token == ticket.lease_token,
                words="Cancelled before any upload" if at_once else "Cancel requested",
                **values,
            )
            if cancelled:
                audit_change(connection, "ticket.cancel", _uri(ticket))
        return cancelled

    def request_withdrawal(self, id: int, given: AccountGiven | None = None) -> Ticket:
        """Withdraw what a ticket has published: a worker deletes it from the cloud. Cancel a ticket that has not ended.

        The worker signs in with the account that is given, or else with the stored account of the ticket as it is now.
        Can be repeated. Raises `NotFound`, `Conflict` if the ticket has published nothing, and `InvalidRequest` if an
        account must be given, or another one.
        """
        for _ in range(10):
            ticket = self._required(id)
            match ticket.state:
                case State.WITHDRAWING if ticket.retire:
                    self._insist(ticket)
                case State.WITHDRAWING | State.WITHDRAWN | State.CANCELLED:
                    return ticket
                case State.FAILED:
                    raise Conflict(f"ticket {id} has failed: it has published nothing that can be withdrawn")
                case State.PUBLISHED:
                    self._withdraw(ticket, given)
                case _:
                    # If it ends before, the next turn finds that.
                    with suppress(Conflict):
                        return self.request_cancel(id)
        raise Conflict(f"ticket {id} changes too fast to be withdrawn; try again")

    def _insist(self, ticket: Ticket) -> None:
        """Record that its owner, too, wants a replaced image withdrawn: it then goes even if it is in use."""
        replaced = tickets.c.id == ticket.id, tickets.c.state == State.WITHDRAWING, tickets.c.retire.is_not(None)
        with writing(self._engine) as connection:
            if connection.execute(update(tickets).where(*replaced).values(retire=None, modified=db_now())).rowcount:
                append_history(
                    connection, ticket.id, ticket.state, ticket.state, ticket.phase, "Withdrawal requested by its owner"
                )
                audit_change(connection, "ticket.withdraw", _uri(ticket))

    def _withdraw(self, ticket: Ticket, given: AccountGiven | None) -> None:
        with writing(self._engine) as connection:
            withdraw(connection, ticket, given, words="Withdrawal requested")

    def retry(self, id: int) -> Ticket:
        """Queue a failed or cancelled ticket again, like a new one, with the present values of its stored account.

        Raises `NotFound`, or `Conflict` if the ticket is in another state, if the image was deleted, if it would have
        expired by now, or if something may be left in a cloud that the account does not lead to any more.
        """
        ticket = self._required(id)
        if ticket.state not in (State.FAILED, State.CANCELLED):
            raise Conflict(f"ticket {id} is {ticket.state}; only a failed or cancelled one can be tried again")
        with writing(self._engine) as connection:
            now, ready = hold_ready_images(connection, [ticket.image_id])
            if ticket.image_id not in ready:
                raise missing_image(ticket.image_id)
            if ticket.expires is not None and ticket.expires <= now:
                raise Conflict(f"the image of ticket {id} would have expired by now; publish it again")
            account, words = _present_account(connection, ticket)
            queued = transition(
                connection,
                id,
                ticket.state,
                State.QUEUED,
                tickets.c.lease_token == ticket.lease_token,
                words=f"Queued again at its owner's request{words}",
                phase=Phase.WAITING,
                sent=0,
                # The image may have been registered again since.
                total=select(images.c.size).where(images.c.id == ticket.image_id).scalar_subquery(),
                progressed=None,
                attempt=0,
                error=None,
                error_detail=None,
                failure=None,
                reason=None,
                started=None,
                finished=None,
                accepted=db_now(),
                worker=None,
                not_before=0.0,
                wake_at=db_now() + self._wake_again_seconds,
                wakes=0,
                location=None,
                **account,
            )
            if queued:
                # The count of attempts restarts.
                connection.execute(delete(samples).where(samples.c.ticket_id == id))
                audit_change(connection, "ticket.retry", _uri(ticket))
        found = self.get(id)
        if not queued or found is None:
            raise Conflict(f"ticket {id} was changed meanwhile; try again")
        return found

    def use_key(self, ticket: Ticket) -> bool:
        """Use up the one-time key of a ticket as it was read. Return False if the key was used already."""
        used = (
            update(tickets)
            .where(tickets.c.id == ticket.id, tickets.c.downloads == ticket.downloads)
            .values(downloads=tickets.c.downloads + 1, modified=db_now())
        )
        with writing(self._engine) as connection:
            return connection.execute(used).rowcount == 1

    def remove(self, id: int) -> None:
        """Delete an ended ticket and its history. What it published stays in the cloud, unless it was withdrawn.

        Raises `NotFound`, or `Conflict` if it has not ended.
        """
        with writing(self._engine) as connection:
            found = _locked(connection, tickets.c.id == id)
            if not found:
                raise _none(id)
            if (state := found[id]) not in FINAL:
                first = "wait for the end of that" if state is State.WITHDRAWING else "cancel it first"
                raise Conflict(f"ticket {id} is {state}; {first}")
            _forget(connection, found)

    def remove_all(self, owner: str, appliance_id: int) -> None:
        """Delete all tickets of an appliance, or none if one of them has not ended. Raises `Conflict`."""
        with writing(self._engine) as connection:
            found = _locked(connection, tickets.c.owner == owner, tickets.c.appliance_id == appliance_id)
            for id, state in found.items():
                if state not in FINAL:
                    first = "wait for the end of its withdrawal" if state is State.WITHDRAWING else "cancel it first"
                    raise Conflict(f"ticket {id} has not ended; {first}. None was deleted")
            _forget(connection, found)

    def anything_due(self) -> bool:
        """Return whether `due`, `hasten` or the `due` of registrations may find anything.

        Usually nothing is due, and this costs a fraction of what they cost.
        """
        with reading(self._engine) as connection:
            return bool(connection.execute(_ANYTHING_DUE).scalar_one())

    def due(self, limit: int = 100) -> Sequence[int]:
        """Return the tickets to wake now: those that a worker should hold but none does. Oldest first."""
        # Two statements, each of which has an index.
        query = select(tickets.c.id).order_by(tickets.c.wake_at, tickets.c.id).limit(limit)
        with reading(self._engine) as connection:
            found = connection.execute(query.where(_DUE)).scalars().all()
            return [*found, *connection.execute(query.where(_RETIREMENT_DUE)).scalars()][:limit]

    def hasten(self, count: int) -> None:
        """Make the `count` oldest waiting tickets with a free slot due now.

        That many worker threads are free: they would have claimed these tickets if their messages had not been lost.
        """
        with reading(self._engine) as connection:
            ids = self._slots.oldest(connection, count, tickets.c.wakes >= _WAKES_BEFORE_HASTE)
        if ids:
            with writing(self._engine, durable=False) as connection:
                waiting = tickets.c.id.in_(ids), tickets.c.state == State.QUEUED
                connection.execute(update(tickets).where(*waiting).values(wake_at=db_now(), wakes=0))

    def woken(self, *ids: int, sent: bool) -> None:
        """Record that workers were woken for tickets, or could not be."""
        delay = wake_delay(tickets, self._wake_again_seconds)
        values = (
            {"wake_at": db_now() + delay, "wakes": tickets.c.wakes + 1} if sent else {"wake_at": db_now(), "wakes": 0}
        )
        with writing(self._engine) as connection:
            for part in _parts(ids):
                connection.execute(update(tickets).where(tickets.c.id.in_(part)).values(values))


def withdraw(
    connection: Connection, ticket: Ticket, given: AccountGiven | None, *, words: str, replaced: bool = False
) -> bool:
    """Begin the withdrawal of a published ticket. Return False, and write nothing, if the ticket has changed.

    `replaced`: a newer image of its lineage replaces it, so an image that is in use must stay.

    Raises `InvalidRequest` as `request_withdrawal` does.
    """
    account, with_account = _withdrawing_account(connection, ticket, given)
    begun = transition(
        connection,
        ticket.id,
        State.PUBLISHED,
        State.WITHDRAWING,
        tickets.c.lease_token == ticket.lease_token,
        words=words + with_account,
        phase=Phase.WAITING,
        error=None,
        error_detail=None,
        reason=None,
        withdrawal=db_now(),
        retire=Older.WITHDRAW if replaced else None,
        worker=None,
        # Due at once. The sweeper may still hold the lease.
        wake_at=db_now(),
        wakes=0,
        **account,
    )
    if begun:
        audit_change(connection, "ticket.withdraw", _uri(ticket))
    return begun


def retire(connection: Connection, ticket: Ticket, older: Older, *, words: str) -> None:
    """Have a worker hide or rename the image of a published ticket, whose row must be locked.

    Raises `InvalidRequest` if no stored account leads to the image any more.
    """
    account, with_account = _withdrawing_account(connection, ticket, None)
    wanted = {"retire": older, "withdrawal": db_now(), "error": None, "error_detail": None, "reason": None}
    # Due at once. A worker may still hold the lease, for what was wanted before.
    due = {"wake_at": db_now(), "wakes": 0, "modified": db_now()}
    connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(**wanted, **due, **account))
    append_history(connection, ticket.id, ticket.state, ticket.state, ticket.phase, words + with_account)


def _none(id: int) -> NotFound:
    return NotFound(f"there is no ticket {id}")


def _locked(connection: Connection, *which: ColumnElement[bool]) -> dict[int, State]:
    """Return the tickets' states, oldest ticket first, and lock the tickets until the transaction ends."""
    query = select(tickets.c.id, tickets.c.state).where(*which).order_by(tickets.c.id).with_for_update()
    return {row.id: State(row.state) for row in connection.execute(query)}


def _forget(connection: Connection, ids: Collection[int]) -> None:
    """Delete these tickets, which must be locked. Leaves tickets that were added or retried meanwhile."""
    for part in _parts(ids):
        these = tickets.c.id.in_(part)
        _remember(connection, these)
        gone = connection.execute(delete(tickets).where(these).returning(*_URI_COLUMNS)).all()
        audit_change(connection, "ticket.delete", *(ticket_uri(*row) for row in gone))


def _remember(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Record what tickets that are about to be deleted may have left in a cloud, and how to sign in there."""
    published = and_(tickets.c.state == State.PUBLISHED, tickets.c.cloud_id == journal.c.cloud_id)
    # A published ticket has secrets only while its image is to be hidden or renamed.
    searched = tickets.c.sealed_secrets.is_not(None), tickets.c.state != State.PUBLISHED
    sign_in = [case((and_(*searched), tickets.c[name])) for name in ("platform", "account", "target", "sealed_secrets")]
    left = (
        select(tickets.c.uid, journal.c.cloud_id, tickets.c.state, published, db_now(), *sign_in)
        .join(journal, journal.c.ticket_id == tickets.c.id)
        .where(*which, journal.c.state != "gone")
    )
    columns = ["ticket_uid", "cloud_id", "state", "published", "created"]
    columns += ["platform", "account", "target", "sealed_secrets"]
    connection.execute(insert(tombstones).from_select(columns, left))


def _uri(ticket: Ticket) -> str:
    return ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)


def _parts(ids: Collection[int]) -> Iterator[Sequence[int]]:
    rest = iter(ids)
    while part := tuple(islice(rest, _IDS_AT_ONCE)):
        yield part


def _present_account(connection: Connection, ticket: Ticket) -> tuple[dict[str, Any], str]:
    """Return what to change in the row of a ticket that is retried, and words for its history.

    Nothing if it keeps the account that it has (see `_stored_account`).

    Raises `Conflict` if the account leads to another image service now, and this ticket may have left something in the
    previous one, which can only be deleted with the previous credentials.
    """
    found, words = _stored_account(connection, ticket)
    if found and not _leads_to_the_same(ticket, found["account"]) and _left_something(connection, ticket):
        raise Conflict(
            f"ticket {ticket.id} may have left something in the cloud, and its account '{found['account']['name']}'"
            " leads to another cloud now; publish the image again (the sweeper deletes what is left)"
        )
    return found, words


def _stored_account(connection: Connection, ticket: Ticket) -> tuple[dict[str, Any], str]:
    """Return the columns of a ticket's row with its stored account as it is now, and words for its history.

    Nothing if it named no stored account.

    Corrections to the stored account, such as a new password or address, are used. What the request gave itself stays.
    If the account was deleted, or the request gave its secrets itself, the ticket keeps the values it has.
    """
    if ticket.account_id is None:
        return {}, ""
    mine = accounts.c.id == ticket.account_id, accounts.c.owner == ticket.owner
    columns = accounts.c.name, accounts.c.fields, accounts.c.sealed_secrets
    stored = connection.execute(select(*columns).where(*mine)).one_or_none()
    if stored is None:
        return {}, ", with its copy of the account, which was deleted"
    query = select(tickets.c.own_elements).where(tickets.c.id == ticket.id)
    own = set(connection.execute(query).scalar_one_or_none() or ())
    if _is_apart(ticket, own, stored.fields):
        return {}, ", with the account as the request gave it"
    account = stored.fields | {name: ticket.account[name] for name in own & set(ticket.account)} | {"name": stored.name}
    found = {
        "account": account,
        "sealed_secrets": stored.sealed_secrets,
        "cloud_account": cloud_account(ticket.platform, account, ticket.target),
    }
    return found, f", with the account '{stored.name}' as it is now"


def _leads_to_the_same(ticket: Ticket, account: dict[str, Any]) -> bool:
    """Return whether an account leads to the image service that the ticket's image is in."""
    there = image_service(ticket.platform, ticket.account, ticket.target)
    return image_service(ticket.platform, account, ticket.target) == there


def _withdrawing_account(
    connection: Connection, ticket: Ticket, given: AccountGiven | None
) -> tuple[dict[str, Any], str]:
    """Return the columns of a ticket's row with the account to withdraw it with, and words for its history.

    A published ticket has no secrets any more. Raises `InvalidRequest` if no account has them, or if the account leads
    to another image service: it could not delete the image, and would report that it is gone.
    """
    if given is None:
        found, words = _stored_account(connection, ticket)
        if not found:
            raise InvalidRequest(
                f"is needed to withdraw ticket {ticket.id}: its own secrets were deleted when it was published, and it"
                " used no stored account that is still there",
                field=CRED_ACCOUNT,
            )
    else:
        # The name of the stored account stays: it leads nowhere.
        name = {"name": ticket.account["name"]} if "name" in ticket.account else {}
        found = {"account": given.fields | name, "sealed_secrets": given.sealed_secrets}
        words = ", with the account that was given"
    if not _leads_to_the_same(ticket, found["account"]):
        raise InvalidRequest(
            f"leads to another cloud, user or project than that of ticket {ticket.id}; give an account that leads to"
            " the same",
            field=CRED_ACCOUNT,
        )
    return found, words


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
