"""Creating tickets: those of several requests together, and once for each idempotency key."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, delete, select

from publisher.core.asking import waits
from publisher.core.errors import Conflict, InvalidRequest
from publisher.core.image import Image
from publisher.core.ticket import Older, Phase, Progress, State, Ticket, ticket_uri
from publisher.core.uris import unique_ids
from publisher.platforms.platform import cloud_account
from publisher.store.database import (
    Actor,
    audit,
    audit_rows,
    busy_seconds,
    db_now,
    history,
    idempotency_keys,
    images,
    reading,
    tickets,
    users,
    writing,
)
from publisher.store.images import IMAGE_COLUMNS, hold_ready_images, image_of_values
from publisher.store.limits import NoRoom, QueueCapacity
from publisher.store.prepared import Prepared, insert_into_several, insert_rows, is_one_of
from publisher.store.ticket_rows import TICKET_COLUMNS, ticket_of

_HARDLY_WAITED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key, and the request that it came with."""

    owner: str
    """Login of the caller. Each caller has its own keys."""
    key: str
    fingerprints: tuple[str, ...] = field(repr=False)
    """Fingerprints of the request, by each of the vault's keys; store the first."""
    seconds: float
    """How long the key is valid."""

    @property
    def name(self) -> tuple[str, str]:
        return self.owner, self.key


class KeyTaken(Conflict):
    """Idempotency-Key: another request with this key is being processed; try again"""


class IdempotencyKeys:
    """Idempotency keys and their tickets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ticket(self, key: IdempotencyKey) -> Ticket | None:
        """Return the ticket of the first request with this key; None if there was none.

        Raises `Conflict` if that was a different request.
        """
        query = (
            select(*[*TICKET_COLUMNS, idempotency_keys.c.digest])
            .join(idempotency_keys, idempotency_keys.c.ticket_id == tickets.c.id)
            .where(idempotency_keys.c.owner == key.owner, idempotency_keys.c.key == key.key)
            .where(idempotency_keys.c.created > db_now() - key.seconds)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.digest not in key.fingerprints:
            raise Conflict("Idempotency-Key: was used for another request; a new request needs a new key")
        return ticket_of(row)

    def purge(self, seconds: float) -> int:
        """Delete the keys that are older than `seconds`. Return how many."""
        expired = idempotency_keys.c.created <= db_now() - seconds
        with writing(self._engine, durable=False) as connection:
            return connection.execute(delete(idempotency_keys).where(expired)).rowcount


@dataclass(frozen=True, slots=True)
class NewTicket:
    """A ticket that is to be created: whose it is, its image, its account and where the image goes."""

    owner: str
    appliance_id: int
    image_id: int
    image_size: int
    platform: str
    account: dict[str, Any]
    sealed_secrets: bytes = field(repr=False)
    target: dict[str, Any]
    name: str
    account_id: int | None = None
    own_elements: Collection[str] = ()
    """Names of the account elements that the request gave itself, if it named a stored account."""
    notify_url: str | None = field(default=None, repr=False)
    expires: float | None = None
    """When the service withdraws the image, in seconds since the epoch."""
    lineage: str | None = None
    keep: int | None = None
    older: Older | None = None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """What the store knows about a publish request."""

    image: Image | None
    """The image, if there is one and the owner has it."""
    key_known: bool
    """The idempotency key has been used; it may have expired since."""
    signs: bool
    """The owner has a secret that signs notifications."""


@dataclass(frozen=True, slots=True)
class BasisWanted:
    """A publish request whose `Basis` is wanted."""

    owner: str
    appliance_id: int
    image_id: int
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TicketWanted:
    """A ticket that is to be created, its idempotency key, and who acts."""

    new: NewTicket
    key: IdempotencyKey | None = None
    actor: Actor | None = None


class NewTickets:
    """Creates tickets. The stores of all actors share it.

    The tickets of several requests are written in one transaction. This saves most waits for the disk and most
    statements. One that cannot be created does not keep the others from it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        wake_again_seconds: float,
        capacity: QueueCapacity,
        expiry_notice_seconds: float = 86400.0,
    ) -> None:
        """`expiry_notice_seconds`: how long before an image expires its webhooks are notified."""
        self._engine = engine
        self._expiry_notice_seconds = expiry_notice_seconds
        self._wake_again_seconds = wake_again_seconds
        self._capacity = capacity

    def bases(self, group: Sequence[BasisWanted]) -> Sequence[Basis]:
        """Return what publish requests need to know. One statement reads what one request needs; several requests
        need one for their images, and one for their keys."""
        with reading(self._engine) as connection:
            if len(group) == 1:
                return [_basis(connection, group[0])]
            return _bases(connection, group)

    @waits
    def create_all(self, group: Sequence[TicketWanted]) -> Sequence[Ticket | BaseException]:
        """Commit queued tickets and their actors' audit entries. Return each one's ticket, or why there is none.

        This is `TooMany` if too many tickets are queued, `InvalidRequest` if its image has expired, `Conflict` if the
        image was deleted or is being registered again, and `KeyTaken` if another ticket has the key already.
        """
        began = time.monotonic()
        commits = False
        try:
            with self._capacity.room() as no_room, writing(self._engine) as connection:
                verdicts = self._write(connection, group, no_room)
                commits = True
            return verdicts
        except BaseException as error:
            # If the commit has failed, the tickets may be stored nevertheless.
            if commits or len(group) == 1:
                return [copy(error) for _ in group]
        # The transaction was rolled back, perhaps because of one of the tickets.
        return [self._create_alone(each, began) for each in group]

    def _create_alone(self, wanted: TicketWanted, began: float) -> Ticket | BaseException:
        """Commit one ticket of a group that failed. All together wait for locks of others only as long as one may."""
        waited = time.monotonic() - began
        wait_seconds = None if waited < _HARDLY_WAITED_SECONDS else max(0.0, busy_seconds() - waited)
        try:
            with self._capacity.room() as no_room, writing(self._engine, wait_seconds=wait_seconds) as connection:
                return self._write(connection, [wanted], no_room)[0]
        except BaseException as error:
            return error

    def _write(
        self, connection: Connection, group: Sequence[TicketWanted], no_room: NoRoom
    ) -> list[Ticket | Exception]:
        now, ready = hold_ready_images(connection, {each.new.image_id for each in group})
        taken = _taken_keys(connection, [each.key for each in group if each.key], now)

        def refusal(wanted: TicketWanted) -> Exception | None:
            if wanted.new.image_id not in ready:
                return missing_image(wanted.new.image_id)
            if wanted.new.expires is not None and wanted.new.expires <= now:
                return InvalidRequest("is in the past", field="expires")
            if wanted.key and wanted.key.name in taken:
                return KeyTaken()
            if full := no_room(connection, wanted.new.owner):
                return full
            if wanted.key:
                taken.add(wanted.key.name)
            return None

        refusals = {each: refusal(each) for each in group}
        created = self._insert(connection, [each for each, refused in refusals.items() if not refused], now)
        # A key that another process has taken meanwhile leaves its ticket out.
        return [created.get(each) or refused or KeyTaken() for each, refused in refusals.items()]

    def _insert(self, connection: Connection, group: Sequence[TicketWanted], now: float) -> dict[TicketWanted, Ticket]:
        """Insert tickets, with their keys, histories and audit entries. Leave out those whose key is taken."""
        if not group:
            return {}
        times = {"created": now, "modified": now, "accepted": now, "wake_at": now + self._wake_again_seconds}
        uids = unique_ids(len(group))
        rows = [_row(uid, each.new, self._expiry_notice_seconds) | times for uid, each in zip(uids, group, strict=True)]
        ids: dict[str, int] = dict(insert_rows(connection, tickets, rows, "uid", "id"))
        created = {each: _ticket(ids[row["uid"]], row) for each, row in zip(group, rows, strict=True)}
        keys = {ticket.id: each.key for each, ticket in created.items() if each.key}
        if late := keys.keys() - claim_keys(connection, keys, now):
            connection.execute(delete(tickets).where(tickets.c.id.in_(late)))
            created = {each: ticket for each, ticket in created.items() if ticket.id not in late}
        first_entries = [_first_entry(ticket) for ticket in created.values()]
        changes = audit_rows("ticket.create", now, [_change(each, ticket) for each, ticket in created.items()])
        insert_into_several(connection, {history: first_entries, audit: changes})
        return created


def missing_image(id: int) -> Conflict:
    return Conflict(f"image {id} was deleted, or is not ready any more")


def _basis(connection: Connection, wanted: BasisWanted) -> Basis:
    given = {
        "owner": wanted.owner,
        "appliance": wanted.appliance_id,
        "image": wanted.image_id,
        "caller": wanted.key and wanted.key.owner,
        "key": wanted.key and wanted.key.key,
    }
    rows = _BASIS.rows(connection, **given)
    if not rows:
        return Basis(image=None, key_known=False, signs=False)
    *image, ticket_id, signs = rows[0]
    return Basis(image_of_values(image) if image[0] is not None else None, ticket_id is not None, signs)


def _bases(connection: Connection, group: Sequence[BasisWanted]) -> Sequence[Basis]:
    found: dict[tuple[str, int, int], tuple[Image, bool]] = {}
    for *values, signs in _IMAGES.rows(connection, images=sorted({each.image_id for each in group})):
        image = image_of_values(values)
        found[image.owner, image.appliance_id, image.id] = image, signs
    used: set[tuple[str, str]] = set()
    if keys := [each.key for each in group if each.key]:
        used = set(_known_keys(connection, keys))

    def basis(wanted: BasisWanted) -> Basis:
        image, signs = found.get((wanted.owner, wanted.appliance_id, wanted.image_id), (None, False))
        return Basis(image, wanted.key is not None and wanted.key.name in used, signs)

    return [basis(each) for each in group]


_SIGNS = users.c.sealed_notify_secret.is_not(None).label("signs")
_BASIS = Prepared(
    select(*IMAGE_COLUMNS, idempotency_keys.c.ticket_id, _SIGNS)
    .select_from(users)
    .outerjoin(
        images,
        and_(
            images.c.id == bindparam("image"),
            images.c.owner == users.c.login,
            images.c.appliance_id == bindparam("appliance"),
        ),
    )
    .outerjoin(
        idempotency_keys,
        and_(idempotency_keys.c.owner == bindparam("caller"), idempotency_keys.c.key == bindparam("key")),
    )
    .where(users.c.login == bindparam("owner"))
)


_IMAGES = Prepared(
    select(*IMAGE_COLUMNS, _SIGNS).join(users, users.c.login == images.c.owner).where(is_one_of(images.c.id, "images"))
)
_KEYS = Prepared(
    select(idempotency_keys.c.owner, idempotency_keys.c.key, idempotency_keys.c.created).where(
        is_one_of(idempotency_keys.c.owner, "owners"), is_one_of(idempotency_keys.c.key, "keys")
    )
)


def _row(uid: str, new: NewTicket, expiry_notice_seconds: float) -> dict[str, Any]:
    """Return the row of a ticket, without the times of its creation."""
    return {
        "uid": uid,
        "owner": new.owner,
        "appliance_id": new.appliance_id,
        "image_id": new.image_id,
        "platform": new.platform,
        "account_id": new.account_id,
        "account": new.account,
        "own_elements": sorted(new.own_elements) if new.account_id is not None else None,
        "cloud_account": cloud_account(new.platform, new.account, new.target),
        "sealed_secrets": new.sealed_secrets,
        "target": new.target,
        "name": new.name,
        "notify_url": new.notify_url,
        "expires": new.expires,
        "lineage": new.lineage,
        "keep": new.keep,
        "older": new.older,
        "expiry_due": None if new.expires is None else new.expires - expiry_notice_seconds,
        "state": State.QUEUED,
        "phase": Phase.WAITING,
        "sent": 0,
        "total": new.image_size,
        "attempt": 0,
        "not_before": 0.0,
        "lease_token": 0,
        "lease_until": 0.0,
        "wakes": 0,
        "request_id": new.request_id,
        "traceparent": new.traceparent,
    }


def _ticket(id: int, row: dict[str, Any]) -> Ticket:
    """Return the ticket as it would be read from this row."""
    values: dict[str, Any] = {name: row.get(name) for name in _READ}
    return Ticket(id=id, **values, progress=Progress(row["sent"], row["total"]))


_READ = [each.name for each in fields(Ticket) if each.name not in ("id", "progress", "downloads")]


def _first_entry(ticket: Ticket) -> dict[str, Any]:
    """Return the row of the first entry of a ticket's history."""
    return {
        "ticket_id": ticket.id,
        "at": ticket.created,
        "to_state": ticket.state,
        "phase": ticket.phase,
        "words": "Accepted",
    }


def _change(wanted: TicketWanted, ticket: Ticket) -> tuple[Actor | None, str, str]:
    uri = ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)
    return wanted.actor, uri, f"to {ticket.platform}, as {ticket.name!r}"


def _taken_keys(connection: Connection, keys: Sequence[IdempotencyKey], now: float) -> set[tuple[str, str]]:
    """Return the names of those keys that have a ticket. Deletes those that have expired."""
    if not keys:
        return set()
    created = _known_keys(connection, keys)
    known = [each for each in keys if each.name in created]
    expired = {each.name: each for each in known if created[each.name] <= now - each.seconds}
    for _, each in sorted(expired.items()):
        same = idempotency_keys.c.owner == each.owner, idempotency_keys.c.key == each.key
        connection.execute(delete(idempotency_keys).where(*same, idempotency_keys.c.created <= now - each.seconds))
    return {each.name for each in known} - set(expired)


def _known_keys(connection: Connection, keys: Sequence[IdempotencyKey]) -> dict[tuple[str, str], float]:
    """Return the names of those keys that there are, and when each was created."""
    rows = _KEYS.rows(
        connection, owners=sorted({each.owner for each in keys}), keys=sorted({each.key for each in keys})
    )
    return {(owner, key): created for owner, key, created in rows}


def claim_keys(connection: Connection, keys: Mapping[int, IdempotencyKey], now: float) -> set[int]:
    """Store the keys of these tickets, in the transaction that creates the tickets. Return the tickets that got theirs.

    If another transaction is storing the same key, waits until that ends.
    """
    rows = [
        {"owner": key.owner, "key": key.key, "digest": key.fingerprints[0], "ticket_id": ticket_id, "created": now}
        # In one order, so that two transactions cannot deadlock.
        for ticket_id, key in sorted(keys.items(), key=lambda each: each[1].name)
    ]
    return {id for (id,) in insert_rows(connection, idempotency_keys, rows, "ticket_id", unless_there=True)}
