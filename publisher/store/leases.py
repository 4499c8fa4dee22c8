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

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Row,
    Text,
    and_,
    bindparam,
    case,
    insert,
    or_,
    select,
    update,
)

from publisher.core.errors import Cancelled, LeaseLost, Reason
from publisher.core.ticket import HELD, Phase, State, Ticket
from publisher.store.database import db_now, journal, reading, samples, tickets, writing
from publisher.store.limits import UploadSlots
from publisher.store.lineages import hold_lineage, replace_older
from publisher.store.prepared import Prepared
from publisher.store.ticket_rows import (
    TICKET_COLUMNS,
    append_history,
    make_transition,
    ticket_of,
    transition,
    transition_statement,
)

Step = tuple[Phase, str]
"""A phase, and what the ticket's history says about it."""

# The statements are built once: building one costs several times what executing it costs, and a ticket needs some
# dozens. Parameters must not have the names of columns.
_TICKET = tickets.c.id == bindparam("ticket")
_TOKEN = tickets.c.lease_token == bindparam("token")
_RETIRING = and_(tickets.c.state == State.PUBLISHED, tickets.c.retire.is_not(None))
_HELD = (_TICKET, _TOKEN, or_(tickets.c.state.in_(HELD), _RETIRING))
_WANTED = (_TICKET, _TOKEN, tickets.c.state == State.PUBLISHING, tickets.c.lease_until >= db_now())
_UNTIL = db_now() + bindparam("seconds", type_=Double())
_BYTES = bindparam("bytes", type_=BigInteger())
_PHASE = {"phase": bindparam("step", type_=tickets.c.phase.type), "modified": db_now()}

_CLAIMABLE = (
    select(*[*TICKET_COLUMNS, tickets.c.lease_until, tickets.c.cloud_account, db_now().label("now")])
    .where(_TICKET)
    .with_for_update()
)
_CLAIMED: dict[str, Any] = {
    "phase": Phase.PREPARING,
    "attempt": tickets.c.attempt + 1,
    "worker": bindparam("holder"),
    "lease_token": tickets.c.lease_token + 1,
    "lease_until": _UNTIL,
    # The reconciler looks again when the lease expires.
    "wake_at": _UNTIL,
    "wakes": 0,
}
_CLAIM = transition_statement(_TOKEN, returning=TICKET_COLUMNS, **_CLAIMED, sent=0, progressed=None, started=db_now())
# Its state stays, and so does all that callers see of a published ticket.
_CLAIM_RETIREMENT = (
    update(tickets)
    .where(_TICKET, _TOKEN, _RETIRING)
    .values({name: value for name, value in _CLAIMED.items() if name != "phase"} | {"modified": db_now()})
    .returning(*TICKET_COLUMNS)
)
# What is known of the upload stays: the cloud may refuse the withdrawal.
_CLAIM_WITHDRAWAL = transition_statement(_TOKEN, returning=TICKET_COLUMNS, **_CLAIMED)
_PUBLISHED = transition_statement(
    _TOKEN,
    finished=db_now(),
    lease_until=0.0,
    cloud_id=bindparam("object"),
    shown_id=bindparam("shown"),
    location=bindparam("region"),
    sent=tickets.c.total,
    error=None,
    error_detail=None,
    reason=None,
    # Nobody needs them any more.
    sealed_secrets=None,
)
_CHANGE = update(tickets).where(*_WANTED).returning(tickets.c.id)
_PROGRESS = _CHANGE.values(
    sent=_BYTES,
    # Without new bytes, a renewal changes nothing that callers see.
    progressed=case((tickets.c.sent != _BYTES, db_now()), else_=tickets.c.progressed),
    lease_until=_UNTIL,
    wake_at=_UNTIL,
)
_RENEW, _RENEW_PHASE = Prepared(_PROGRESS), Prepared(_PROGRESS.values(_PHASE))
_SET_PHASE = Prepared(_CHANGE.values(_PHASE))
_SET_REGION = Prepared(_CHANGE.values(location=bindparam("region", type_=Text()), modified=db_now()))
_TOUCH = Prepared(_CHANGE.values(modified=db_now()))
_SAMPLE = Prepared(
    insert(samples)
    .values(ticket_id=bindparam("ticket"), attempt=bindparam("number"), at=db_now(), sent=_BYTES)
    .returning(samples.c.ticket_id)
)
_PLAN = insert(journal).values(
    ticket_id=bindparam("ticket"),
    cloud_id=bindparam("object"),
    state="planned",
    created=db_now(),
    modified=db_now(),
)
# A ticket that is being withdrawn keeps the id of what it published until that is proven to be gone.
_SHOWN_ID = case((tickets.c.state == State.WITHDRAWING, tickets.c.cloud_id), else_=bindparam("object", type_=Text()))
_SET_CLOUD_ID = update(tickets).where(*_HELD).values(modified=db_now(), cloud_id=_SHOWN_ID)
_MARK = (
    update(journal)
    .where(journal.c.ticket_id == bindparam("ticket"), journal.c.cloud_id == bindparam("marked"))
    .values(state=bindparam("mark"), modified=db_now())
)
_HOLDER = select(tickets.c.state, tickets.c.lease_token, (tickets.c.lease_until < db_now()).label("expired")).where(
    _TICKET
)


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
        """Claim a ticket that is queued and due, or whose holder's lease has expired; also one that is to be withdrawn,
        or whose image is to be hidden or renamed.

        Returns None if there is nothing to claim, which is the usual result of a message's second delivery, or if no
        slot is free. In the latter case `next_waiting` returns the ticket once there is a slot.
        """
        # A database server that lost a claim in a crash would issue its token again, while the first worker still uses
        # it. SQLite loses nothing unless the machine fails, and the worker with it.
        with writing(self._engine, durable=self._engine.dialect.name != "sqlite") as connection:
            row = connection.execute(_CLAIMABLE, {"ticket": id}).one_or_none()
            if row is None:
                return None
            ticket, statement = ticket_of(row), _CLAIM
            if ticket.state is State.QUEUED:
                # The sweeper holds the lease of a queued ticket while it deletes what an earlier attempt left.
                free = ticket.not_before <= row.now and row.lease_until < row.now
                free = free and self._slots.reserve(connection, id, row.cloud_account, ticket.owner)
                to_state, words = State.PUBLISHING, "Claimed"
            elif ticket.final:
                return self._claim_retirement(connection, row, worker, lease_seconds)
            elif ticket.state is State.WITHDRAWING:
                # The sweeper holds the lease while it deletes what an earlier attempt left.
                free, to_state, statement = row.lease_until < row.now, ticket.state, _CLAIM_WITHDRAWAL
                words = "Claimed, to withdraw the image,"
            else:
                free, to_state = row.lease_until < row.now, ticket.state
                words = "The previous worker's lease expired; claimed"
            if not free:
                return None
            now = make_transition(
                connection,
                statement,
                id,
                ticket.state,
                to_state,
                words=f"{words} by {worker}",
                token=ticket.lease_token,
                holder=worker,
                seconds=lease_seconds,
            )
            if now is None:
                return None
        taken_over = ticket.state is State.PUBLISHING
        return Claim(ticket_of(now), ticket.lease_token + 1, row.now, row.cloud_account, taken_over)

    def _claim_retirement(
        self, connection: Connection, row: Row[Any], worker: str, lease_seconds: float
    ) -> Claim | None:
        ticket = ticket_of(row)
        if row.lease_until >= row.now:
            return None
        values = {"ticket": ticket.id, "token": ticket.lease_token, "holder": worker, "seconds": lease_seconds}
        now = connection.execute(_CLAIM_RETIREMENT, values).one_or_none()
        if now is None:
            return None
        words = f"Claimed, to {ticket.retire} the image, by {worker}"
        append_history(connection, ticket.id, ticket.state, ticket.state, ticket.phase, words)
        return Claim(ticket_of(now), ticket.lease_token + 1, row.now, row.cloud_account)

    def next_waiting(self, claim: Claim) -> Sequence[int]:
        """Return the tickets that wait for the slot which this claim has left. The caller wakes them."""
        with writing(self._engine, durable=False) as connection:
            return self._slots.next(connection, claim.cloud_account, claim.ticket.owner)

    def renew(
        self, claim: Claim, lease_seconds: float, *, sent: int, sample: bool = False, steps: Sequence[Step] = ()
    ) -> None:
        """Write the progress and renew the lease; with `sample`, also keep a sample of the progress.

        Also records `steps` as `phase` does. Raises `Cancelled` or `LeaseLost`.
        """
        values: dict[str, Any] = {"bytes": sent, "seconds": lease_seconds}
        with writing(self._engine, durable=False) as connection:
            if steps:
                self._update(connection, claim, _RENEW_PHASE, step=steps[-1][0], **values)
                self._append(connection, claim, steps)
            else:
                self._update(connection, claim, _RENEW, **values)
            if sample:
                _SAMPLE.rows(connection, ticket=claim.ticket.id, number=claim.ticket.attempt, bytes=sent)

    def extend(self, claim: Claim, lease_seconds: float) -> None:
        """Renew the lease, also of a ticket that is being cancelled or withdrawn. Raises `LeaseLost`."""
        self._give(claim, lease_seconds, tickets.c.lease_until >= db_now())

    def check(self, claim: Claim) -> None:
        """Check that the work may continue, without writing. Raises `Cancelled` or `LeaseLost`."""
        with reading(self._engine) as connection:
            self._refuse(connection, claim)

    def phase(self, claim: Claim, phase: Phase, words: str) -> None:
        """Record the current phase. Raises `Cancelled` or `LeaseLost`."""
        with writing(self._engine, durable=False) as connection:
            self._update(connection, claim, _SET_PHASE, step=phase)
            self._append(connection, claim, [(phase, words)])

    def region(self, claim: Claim, region: str) -> None:
        """Record the region of the cloud that the image goes to. Raises `Cancelled` or `LeaseLost`."""
        words = f"Signed in; the image goes to region {region}"
        with writing(self._engine, durable=False) as connection:
            self._update(connection, claim, _SET_REGION, region=region)
            self._append(connection, claim, [(Phase.AUTHENTICATING, words)])

    # The journal of cloud objects --------------------------------------------------------------------------------

    def plan(self, claim: Claim, cloud_id: str) -> None:
        """Record a cloud object before it is created. Raises `Cancelled` or `LeaseLost`: then do not create it."""
        with writing(self._engine) as connection:
            self._update(connection, claim, _TOUCH)
            connection.execute(_PLAN, {"ticket": claim.ticket.id, "object": cloud_id})

    def mark(self, claim: Claim, cloud_id: str, state: str) -> None:
        """Record that a cloud object is `present`, `condemned` or `gone`.

        Also for a ticket that is being cancelled or withdrawn. Raises `LeaseLost`.
        """
        with writing(self._engine, durable=state == "condemned") as connection:
            shown = cloud_id if state == "present" else None
            if connection.execute(_SET_CLOUD_ID, {**_held_by(claim), "object": shown}).rowcount != 1:
                raise LeaseLost
            connection.execute(_MARK, {"ticket": claim.ticket.id, "marked": cloud_id, "mark": state})

    # Outcomes -----------------------------------------------------------------------------------------------------

    # Each outcome that ends an upload returns the tickets that wait for its slot, as `next_waiting` does.

    def published(
        self, claim: Claim, *, cloud_id: str, location: str | None, shown_id: str | None = None
    ) -> Sequence[int]:
        """Record that the image was published, and what is to be done with those that it replaces.

        `cloud_id` is the handle, `shown_id` the cloud's own id of the image if it is another one.

        Both in one transaction: a crash leaves no step out, and nothing is changed for an image that is not there.
        Also returns the tickets of those images. Raises `Cancelled` or `LeaseLost`.
        """
        with writing(self._engine, durable=False) as connection:
            hold_lineage(connection, claim.ticket)
            ended = make_transition(
                connection,
                _PUBLISHED,
                claim.ticket.id,
                State.PUBLISHING,
                State.PUBLISHED,
                words="Published",
                token=claim.token,
                object=cloud_id,
                shown=shown_id,
                region=location,
            )
            waiting = self._ended(connection, claim, ended is not None)
            return [*waiting, *replace_older(connection, claim.ticket, claim.cloud_account)]

    def failed(
        self, claim: Claim, *, error: str, detail: str | None = None, reason: Reason = Reason.INTERNAL
    ) -> Sequence[int]:
        """Record that the ticket failed. Raises `Cancelled` or `LeaseLost`."""
        return self._fail(claim, State.PUBLISHING, error, detail, reason)

    def cancelled(self, claim: Claim) -> Sequence[int]:
        """Record that the cancel is done. Raises `LeaseLost`."""
        return self._end(
            claim,
            State.CANCELLING,
            State.CANCELLED,
            words="Cancelled: nothing is left in the cloud",
            cloud_id=None,
        )

    def not_cleaned(self, claim: Claim, *, error: str, detail: str, reason: Reason = Reason.INTERNAL) -> Sequence[int]:
        """Fail a ticket that is being cancelled and whose objects stay in the cloud. Raises `LeaseLost`."""
        return self._fail(claim, State.CANCELLING, error, detail, reason)

    def retry(
        self,
        claim: Claim,
        *,
        delay_seconds: float,
        error: str,
        reason: Reason = Reason.UNAVAILABLE,
        failure: str | None = None,
    ) -> Sequence[int]:
        """Hand the ticket back for a retry after a delay. Raises `Cancelled` or `LeaseLost`.

        With `failure`, the next attempt only cleans up, and fails the ticket with these words.
        """
        words = f"Will be tried again in {delay_seconds:.0f} s: {error}"
        return self._requeue(claim, words, delay_seconds, error=error, reason=reason, failure=failure)

    def release(self, claim: Claim, words: str) -> Sequence[int]:
        """Hand the ticket back at once, without counting the attempt. Raises `Cancelled` or `LeaseLost`."""
        return self._requeue(claim, words, 0.0, attempt=tickets.c.attempt - 1)

    def hand_over(self, claim: Claim, *, delay_seconds: float = 0.0) -> None:
        """Leave a ticket that is being cancelled or withdrawn to the next claim, after a delay. Raises `LeaseLost`."""
        self._give(claim, delay_seconds)

    # What happens to a published image: it is withdrawn, or hidden or renamed because a newer one replaces it. That
    # needs no slot, so its end makes none free.

    def withdrawn(self, claim: Claim, *, words: str) -> None:
        """Record that nothing of the ticket is in the cloud any more. Raises `LeaseLost`."""
        self._end_withdrawal(
            claim, State.WITHDRAWN, words, finished=db_now(), cloud_id=None, error=None, error_detail=None, reason=None
        )

    def retired(self, claim: Claim, *, words: str) -> None:
        """Record that the image was hidden or renamed. Raises `LeaseLost`."""
        done: dict[str, Any] = {"retired": claim.ticket.retire, "error": None, "error_detail": None, "reason": None}
        self._end_withdrawal(claim, State.PUBLISHED, words, **done)

    def not_withdrawn(self, claim: Claim, *, error: str, detail: str, reason: Reason) -> None:
        """Record that the image cannot be withdrawn, hidden or renamed: it is published as before.

        Raises `LeaseLost`.
        """
        values: dict[str, Any] = {"error": error, "error_detail": detail, "reason": reason}
        self._end_withdrawal(claim, State.PUBLISHED, f"Still published: {error}", phase=Phase.FINISHING, **values)

    def withdraw_later(self, claim: Claim, *, delay_seconds: float, error: str, reason: Reason) -> None:
        """Leave the ticket to the next claim, after a delay, and say why. Raises `LeaseLost`."""
        words = f"Will be tried again in {delay_seconds:.0f} s: {error}"
        until = db_now() + delay_seconds
        self._end_withdrawal(claim, None, words, lease_until=until, wake_at=until, wakes=0, error=error, reason=reason)

    def _end_withdrawal(self, claim: Claim, state: State | None, words: str, **values: Any) -> None:
        """Record what the attempt at a published image has led to; None: its state stays, to be tried again."""
        id, before = claim.ticket.id, claim.ticket.state
        if state is not None:
            # Nobody needs the secrets any more.
            values |= {"lease_until": 0.0, "sealed_secrets": None, "retire": None}
        held = tickets.c.lease_token == claim.token
        with writing(self._engine, durable=False) as connection:
            if before is State.WITHDRAWING:
                guards = [held]
                if state is State.PUBLISHED and claim.ticket.retire:
                    # Meanwhile, its owner may have asked for the withdrawal, too.
                    guards.append(tickets.c.retire == claim.ticket.retire)
                if not transition(connection, id, before, state or before, *guards, words=words, **values):
                    raise LeaseLost
                return
            # It is no transition. Meanwhile, its owner may have withdrawn it, or a newer image may ask for more.
            same = tickets.c.id == id, held, tickets.c.state == before, tickets.c.retire == claim.ticket.retire
            if connection.execute(update(tickets).where(*same).values(modified=db_now(), **values)).rowcount != 1:
                raise LeaseLost
            append_history(connection, id, before, before, claim.ticket.phase, words)

    def _fail(self, claim: Claim, from_state: State, error: str, detail: str | None, reason: Reason) -> Sequence[int]:
        return self._end(
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
                update(tickets).where(*_HELD).values(lease_until=0.0, wake_at=db_now(), wakes=0), _held_by(claim)
            )
            if given_up.rowcount != 1:
                raise LeaseLost

    def _give(self, claim: Claim, seconds: float, *guards: ColumnElement[bool]) -> None:
        until = db_now() + seconds
        with writing(self._engine, durable=False) as connection:
            given = connection.execute(
                update(tickets).where(*_HELD, *guards).values(lease_until=until, wake_at=until, wakes=0),
                _held_by(claim),
            )
            if given.rowcount != 1:
                raise LeaseLost

    def _requeue(self, claim: Claim, words: str, delay_seconds: float, **values: Any) -> Sequence[int]:
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
                return ()
            return self._slots.wake_next(connection, claim.cloud_account, claim.ticket.owner)

    def _end(self, claim: Claim, from_state: State, state: State, *, words: str, **values: Any) -> Sequence[int]:
        with writing(self._engine, durable=False) as connection:
            ended = transition(
                connection,
                claim.ticket.id,
                from_state,
                state,
                tickets.c.lease_token == claim.token,
                words=words,
                finished=db_now(),
                lease_until=0.0,
                **values,
            )
            return self._ended(connection, claim, ended)

    def _ended(self, connection: Connection, claim: Claim, written: bool) -> Sequence[int]:
        if not written:
            self._refuse(connection, claim)
            raise LeaseLost
        return self._slots.wake_next(connection, claim.cloud_account, claim.ticket.owner)

    def _update(self, connection: Connection, claim: Claim, statement: Prepared, **parameters: Any) -> None:
        if not statement.rows(connection, **_held_by(claim), **parameters):
            self._refuse(connection, claim)
            raise LeaseLost

    def _append(self, connection: Connection, claim: Claim, steps: Sequence[Step]) -> None:
        """Write the entries of the history for these steps."""
        for phase, words in steps:
            append_history(connection, claim.ticket.id, State.PUBLISHING, State.PUBLISHING, phase, words)

    def _refuse(self, connection: Connection, claim: Claim) -> None:
        """Raise the error that explains a refused write; return if the ticket is held after all."""
        row = connection.execute(_HOLDER, {"ticket": claim.ticket.id}).one_or_none()
        if row is None or row.lease_token != claim.token or row.expired:
            raise LeaseLost
        if row.state == State.CANCELLING:
            raise Cancelled
        if row.state != State.PUBLISHING:
            raise LeaseLost


def _held_by(claim: Claim) -> dict[str, Any]:
    """Return the parameters of the guards."""
    return {"ticket": claim.ticket.id, "token": claim.token}
