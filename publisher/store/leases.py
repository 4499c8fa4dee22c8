"""The workers' side of tickets: a worker claims a ticket under a lease and writes to it only while the lease holds.

A claim gives the ticket a new fencing token. Every write names the token, so a worker whose ticket was claimed by
another one changes nothing, however late it wakes up. The database's clock decides when a lease has expired. An
expired lease cannot be renewed, and nothing new is started under it. The outcome of an attempt is still recorded,
unless another worker has claimed the ticket.

Only writes that must precede a change in a cloud are made to survive a power cut. If a power cut undoes any other
write, the next attempt repeats it: it finds what is in the cloud and reaches the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, case, insert, select, update

from publisher.core.errors import Cancelled, LeaseLost, Reason
from publisher.core.ticket import Phase, State, Ticket
from publisher.store.engine import db_now, reading, writing
from publisher.store.limits import UploadSlots
from publisher.store.tables import journal, samples, tickets
from publisher.store.ticket_rows import TICKET_COLUMNS, append_history, ticket_of, transition


@dataclass(frozen=True, slots=True)
class Claim:
    """A ticket that this worker holds, and the fencing token that proves it."""

    ticket: Ticket
    token: int
    now: float
    """When it was claimed, by the database's clock."""
    cloud_account: str
    taken_over: bool = False
    """Whether it was taken over from a worker whose lease had expired."""


class Leases:
    """Claims of tickets, and what workers write under them."""

    def __init__(self, engine: Engine, slots: UploadSlots) -> None:
        self._engine = engine
        self._slots = slots

    def claim(self, id: int, worker: str, lease_seconds: float) -> Claim | None:
        """Claim a ticket that is queued and due, or whose holder's lease has expired.

        Returns None if there is nothing to claim, which is the usual result of a message's second delivery, or if no
        slot is free. In the latter case `next_waiting` returns the ticket once there is a slot.
        """
        query = (
            select(*[*TICKET_COLUMNS, tickets.c.lease_until, tickets.c.cloud_account, db_now().label("now")])
            .where(tickets.c.id == id)
            .with_for_update()
        )
        # A database server that lost a claim in a crash would issue its token again, while the first worker still uses
        # it. SQLite loses nothing unless the machine fails, and the worker with it.
        with writing(self._engine, durable=self._engine.dialect.name != "sqlite") as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            ticket = ticket_of(row)
            if ticket.state is State.QUEUED:
                # The sweeper holds the lease of a queued ticket while it deletes what an earlier attempt left.
                free = ticket.not_before <= row.now and row.lease_until < row.now
                free = free and self._slots.reserve(connection, id, row.cloud_account, ticket.owner)
                to_state, words = State.PUBLISHING, "Claimed"
            elif ticket.final:
                return None
            else:
                free, to_state = row.lease_until < row.now, ticket.state
                words = "The previous worker's lease expired; claimed"
            if not free:
                return None
            claimed = transition(
                connection,
                id,
                ticket.state,
                to_state,
                tickets.c.lease_token == ticket.lease_token,
                words=f"{words} by {worker}",
                phase=Phase.PREPARING,
                sent=0,
                progressed=None,
                attempt=ticket.attempt + 1,
                started=db_now(),
                worker=worker,
                lease_token=ticket.lease_token + 1,
                lease_until=db_now() + lease_seconds,
                # The reconciler looks again when the lease expires.
                wake_at=db_now() + lease_seconds,
                wakes=0,
            )
            if not claimed:
                return None
            now = connection.execute(select(*TICKET_COLUMNS).where(tickets.c.id == id)).one()
        taken_over = ticket.state is State.PUBLISHING
        return Claim(ticket_of(now), ticket.lease_token + 1, row.now, row.cloud_account, taken_over)

    def next_waiting(self, claim: Claim) -> Sequence[int]:
        """Return the tickets that wait for the slot which this claim has left. The caller wakes them."""
        with writing(self._engine, durable=False) as connection:
            return self._slots.next(connection, claim.cloud_account, claim.ticket.owner)

    def renew(self, claim: Claim, lease_seconds: float, *, sent: int, sample: bool = False) -> None:
        """Write the progress and renew the lease; with `sample`, also keep a sample of the progress.

        Raises `Cancelled` or `LeaseLost`.
        """
        until = db_now() + lease_seconds
        with writing(self._engine, durable=False) as connection:
            # Without new bytes, a renewal changes nothing that callers see.
            progressed = case((tickets.c.sent != sent, db_now()), else_=tickets.c.progressed)
            self._update(connection, claim, sent=sent, progressed=progressed, lease_until=until, wake_at=until)
            if sample:
                ticket = claim.ticket
                row = {"ticket_id": ticket.id, "attempt": ticket.attempt, "at": db_now(), "sent": sent}
                connection.execute(insert(samples).values(row))

    def extend(self, claim: Claim, lease_seconds: float) -> None:
        """Renew the lease, also of a ticket that is being cancelled. Raises `LeaseLost`."""
        self._give(claim, lease_seconds, tickets.c.lease_until >= db_now())

    def check(self, claim: Claim) -> None:
        """Check that the work may continue, without writing. Raises `Cancelled` or `LeaseLost`."""
        with reading(self._engine) as connection:
            self._refuse(connection, claim)

    def phase(self, claim: Claim, phase: Phase, words: str) -> None:
        """Record the current phase. Raises `Cancelled` or `LeaseLost`."""
        with writing(self._engine, durable=False) as connection:
            self._update(connection, claim, phase=phase, modified=db_now())
            append_history(connection, claim.ticket.id, State.PUBLISHING, State.PUBLISHING, phase, words)

    def region(self, claim: Claim, region: str) -> None:
        """Record the region of the cloud that the image goes to. Raises `Cancelled` or `LeaseLost`."""
        words = f"Signed in; the image goes to region {region}"
        with writing(self._engine, durable=False) as connection:
            self._update(connection, claim, location=region, modified=db_now())
            append_history(connection, claim.ticket.id, State.PUBLISHING, State.PUBLISHING, Phase.AUTHENTICATING, words)

    # The journal of cloud objects --------------------------------------------------------------------------------

    def plan(self, claim: Claim, cloud_id: str) -> None:
        """Record a cloud object before it is created. Raises `Cancelled` or `LeaseLost`: then do not create it."""
        with writing(self._engine) as connection:
            self._update(connection, claim, modified=db_now())
            connection.execute(
                insert(journal).values(
                    ticket_id=claim.ticket.id,
                    cloud_id=cloud_id,
                    state="planned",
                    created=db_now(),
                    modified=db_now(),
                )
            )

    def mark(self, claim: Claim, cloud_id: str, state: str) -> None:
        """Record that a cloud object is `present`, `condemned` or `gone`, also for a ticket that is being cancelled.

        Raises `LeaseLost`.
        """
        with writing(self._engine, durable=state == "condemned") as connection:
            held = connection.execute(
                update(tickets)
                .where(tickets.c.id == claim.ticket.id, *_held(claim))
                .values(modified=db_now(), cloud_id=cloud_id if state == "present" else None)
            )
            if held.rowcount != 1:
                raise LeaseLost
            connection.execute(
                update(journal)
                .where(journal.c.ticket_id == claim.ticket.id, journal.c.cloud_id == cloud_id)
                .values(state=state, modified=db_now())
            )

    # Outcomes -----------------------------------------------------------------------------------------------------

    def published(self, claim: Claim, *, cloud_id: str, location: str | None) -> None:
        """Record that the image was published. Raises `Cancelled` or `LeaseLost`."""
        self._end(
            claim,
            State.PUBLISHING,
            State.PUBLISHED,
            words="Published",
            cloud_id=cloud_id,
            location=location,
            sent=tickets.c.total,
            error=None,
            error_detail=None,
            reason=None,
            # Nobody needs them any more.
            sealed_secrets=None,
        )

    def failed(self, claim: Claim, *, error: str, detail: str | None = None, reason: Reason = Reason.INTERNAL) -> None:
        """Record that the ticket failed. Raises `Cancelled` or `LeaseLost`."""
        self._fail(claim, State.PUBLISHING, error, detail, reason)

    def cancelled(self, claim: Claim) -> None:
        """Record that the cancel is done. Raises `LeaseLost`."""
        self._end(
            claim,
            State.CANCELLING,
            State.CANCELLED,
            words="Cancelled: nothing is left in the cloud",
            cloud_id=None,
        )

    def not_cleaned(self, claim: Claim, *, error: str, detail: str, reason: Reason = Reason.INTERNAL) -> None:
        """Fail a ticket that is being cancelled and whose objects stay in the cloud. Raises `LeaseLost`."""
        self._fail(claim, State.CANCELLING, error, detail, reason)

    def retry(
        self,
        claim: Claim,
        *,
        delay_seconds: float,
        error: str,
        reason: Reason = Reason.UNAVAILABLE,
        failure: str | None = None,
    ) -> None:
        """Hand the ticket back for a retry after a delay. Raises `Cancelled` or `LeaseLost`.

        With `failure`, the next attempt only cleans up, and fails the ticket with these words.
        """
        words = f"Will be tried again in {delay_seconds:.0f} s: {error}"
        self._requeue(claim, words, delay_seconds, error=error, reason=reason, failure=failure)

    def release(self, claim: Claim, words: str) -> None:
        """Hand the ticket back at once, without counting the attempt. Raises `Cancelled` or `LeaseLost`."""
        self._requeue(claim, words, 0.0, attempt=tickets.c.attempt - 1)

    def hand_over(self, claim: Claim, *, delay_seconds: float = 0.0) -> None:
        """Leave a ticket that is being cancelled to the next claim, after a delay. Raises `LeaseLost`."""
        self._give(claim, delay_seconds)

    def _fail(self, claim: Claim, from_state: State, error: str, detail: str | None, reason: Reason) -> None:
        self._end(
            claim,
            from_state,
            State.FAILED,
            words=f"Failed: {error}",
            error=error,
            error_detail=detail,
            failure=None,
            reason=reason,
        )

    def give_up(self, claim: Claim) -> None:
        """Let any worker claim the ticket at once, before the lease expires.

        Raises `LeaseLost` if the ticket was claimed already or has ended.
        """
        with writing(self._engine, durable=False) as connection:
            given_up = connection.execute(
                update(tickets)
                .where(tickets.c.id == claim.ticket.id, *_held(claim))
                .values(lease_until=0.0, wake_at=db_now(), wakes=0)
            )
            if given_up.rowcount != 1:
                raise LeaseLost

    def _give(self, claim: Claim, seconds: float, *guards: ColumnElement[bool]) -> None:
        until = db_now() + seconds
        with writing(self._engine, durable=False) as connection:
            given = connection.execute(
                update(tickets)
                .where(tickets.c.id == claim.ticket.id, *_held(claim), *guards)
                .values(lease_until=until, wake_at=until, wakes=0)
            )
            if given.rowcount != 1:
                raise LeaseLost

    def _requeue(self, claim: Claim, words: str, delay_seconds: float, **values: Any) -> None:
        with writing(self._engine, durable=False) as connection:
            if not transition(
                connection,
                claim.ticket.id,
                State.PUBLISHING,
                State.QUEUED,
                tickets.c.lease_token == claim.token,
                words=words,
                phase=Phase.WAITING,
                sent=0,
                progressed=None,
                lease_until=0.0,
                worker=None,
                not_before=db_now() + delay_seconds,
                wake_at=db_now() + delay_seconds,
                wakes=0,
                **values,
            ):
                self._refuse(connection, claim)
                return
            self._slots.wake_next(connection, claim.cloud_account, claim.ticket.owner)

    def _end(self, claim: Claim, from_state: State, state: State, *, words: str, **values: Any) -> None:
        with writing(self._engine, durable=False) as connection:
            if not transition(
                connection,
                claim.ticket.id,
                from_state,
                state,
                tickets.c.lease_token == claim.token,
                words=words,
                finished=db_now(),
                lease_until=0.0,
                **values,
            ):
                self._refuse(connection, claim)
                raise LeaseLost
            self._slots.wake_next(connection, claim.cloud_account, claim.ticket.owner)

    def _update(self, connection: Connection, claim: Claim, **values: Any) -> None:
        guards = tickets.c.id == claim.ticket.id, tickets.c.state == State.PUBLISHING
        held = tickets.c.lease_token == claim.token, tickets.c.lease_until >= db_now()
        if connection.execute(update(tickets).where(*guards, *held).values(values)).rowcount != 1:
            self._refuse(connection, claim)
            raise LeaseLost

    def _refuse(self, connection: Connection, claim: Claim) -> None:
        """Raise the error that explains a refused write; return if the ticket is held after all."""
        expired = (tickets.c.lease_until < db_now()).label("expired")
        query = select(tickets.c.state, tickets.c.lease_token, expired).where(tickets.c.id == claim.ticket.id)
        row = connection.execute(query).one_or_none()
        if row is None or row.lease_token != claim.token or row.expired:
            raise LeaseLost
        if row.state == State.CANCELLING:
            raise Cancelled
        if row.state != State.PUBLISHING:
            raise LeaseLost


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    states = tickets.c.state.in_([State.PUBLISHING, State.CANCELLING])
    return states, tickets.c.lease_token == claim.token
