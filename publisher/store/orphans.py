"""The sweeper's view of the store: which cloud accounts there are, and which objects in them are orphans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, exists, null, select, update

from publisher.core.ticket import FINAL, Older, State
from publisher.platforms.platform import image_service
from publisher.store.database import (
    accounts,
    db_now,
    journal,
    reading,
    sightings,
    sweep_refusals,
    tickets,
    tombstones,
    upsert,
    writing,
)

_SIGHTINGS_KEPT_SECONDS = 30 * 86400.0
_LEFT_ALONE_SECONDS_MAX = 86400.0
_DOUBLINGS_MAX = 16
_SECRETS_KEPT_SECONDS = 30 * 86400.0
"""For a deleted ticket that left something. After that, it may be long gone and the password changed."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A cloud account, and the place in that cloud to search."""

    platform: str
    account: dict[str, Any]
    target: dict[str, Any]
    sealed_secrets: bytes = field(repr=False)


class Standing(StrEnum):
    """What our records say about an object with our tag."""

    KEPT = "kept"
    """It was published, or its ticket has not ended or ended only recently."""
    ORPHAN = "orphan"
    """We created it, and the ticket ended without it."""
    UNKNOWN = "unknown"
    """No record says that we created it: it is not ours to delete."""


class Sweeping:
    """What the sweeper reads and records."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def scopes(self) -> list[Scope]:
        """Return the places in clouds to search, each once: where tickets, also deleted ones, have created something.

        The target says `hidden` if that of any of their tickets does, or if an image was hidden for a newer one: a
        cloud may list hidden images only on request.

        Only places that the sweeper can sign in to: with a stored account, or with secrets that the ticket still has. A
        ticket that never created anything may have had a wrong password or named a missing project. Neither should be
        tried again and again.
        """
        found: dict[tuple[str, ...], Scope] = {}
        columns = tickets.c.platform, tickets.c.account, tickets.c.target, tickets.c.sealed_secrets, tickets.c.retired
        created = select(*columns).where(exists().where(journal.c.ticket_id == tickets.c.id))
        stored = select(accounts.c.platform, accounts.c.fields, accounts.c.sealed_secrets).order_by(accounts.c.id)
        sign_in = tombstones.c.platform, tombstones.c.account, tombstones.c.target, tombstones.c.sealed_secrets
        deleted = select(*sign_in).where(tombstones.c.sealed_secrets.is_not(None)).order_by(tombstones.c.created.desc())
        with reading(self._engine) as connection:
            of_tickets: dict[tuple[str, ...], Scope] = {}
            targets: dict[tuple[str, ...], dict[str, Any]] = {}
            hidden: set[tuple[str, ...]] = set()
            for platform, account, target, secrets, retired in connection.execute(
                created.order_by(tickets.c.id.desc())
            ):
                place = image_service(platform, account, target)
                targets.setdefault(place, target)
                if target.get("hidden") or retired == Older.HIDE:
                    hidden.add(place)
                # Published tickets have no secrets any more.
                if secrets is not None:
                    of_tickets.setdefault(place, Scope(platform, account, target, secrets))
            # A stored account has no target. Use the targets of tickets with which it leads to the same image service.
            for platform, account, secrets in connection.execute(stored):
                for place, target in targets.items():
                    if image_service(platform, account, target) == place:
                        found.setdefault(place, Scope(platform, account, target, secrets))
            for place, scope in of_tickets.items():
                found.setdefault(place, scope)
            for platform, account, target, secrets in connection.execute(deleted):
                scope = Scope(platform, account, target or {}, secrets)
                place = image_service(platform, account, scope.target)
                found.setdefault(place, scope)
                if scope.target.get("hidden"):
                    hidden.add(place)
        return [
            replace(scope, target=scope.target | {"hidden": True}) if place in hidden else scope
            for place, scope in found.items()
        ]

    def left_alone(self, scope: Scope) -> bool:
        """Return whether the account refused the sweeper and must not be tried again yet."""
        refused = exists().where(sweep_refusals.c.account == _digest(scope), sweep_refusals.c.until > db_now())
        with reading(self._engine) as connection:
            return bool(connection.execute(select(refused)).scalar())

    def refused(self, scope: Scope, every_seconds: float) -> None:
        """Record that the account refused the sweeper. It is left alone for twice as long each time, up to a day, or
        until it is changed. `every_seconds` is the interval between sweeps."""
        account = _digest(scope)
        with writing(self._engine, durable=False) as connection:
            query = select(sweep_refusals.c.refusals).where(sweep_refusals.c.account == account)
            refusals = (connection.execute(query).scalar() or 0) + 1
            # Half an interval less, so that the time is over when the sweep comes.
            turns = 2.0 ** min(refusals, _DOUBLINGS_MAX) - 0.5
            seconds = min(turns * every_seconds, max(_LEFT_ALONE_SECONDS_MAX, every_seconds / 2))
            row = {"refusals": refusals, "until": db_now() + seconds, "last": db_now()}
            refusal = upsert(self._engine, sweep_refusals).values(account=account, **row)
            connection.execute(refusal.on_conflict_do_update(index_elements=["account"], set_=row))

    def admitted(self, scope: Scope) -> None:
        """Record that the account let the sweeper in."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(sweep_refusals).where(sweep_refusals.c.account == _digest(scope)))

    def standing(self, ticket_uid: str, cloud_id: str, grace_seconds: float) -> Standing:
        with reading(self._engine) as connection:
            return self._standing(connection, ticket_uid, cloud_id, grace_seconds)

    def _standing(self, connection: Connection, ticket_uid: str, cloud_id: str, grace_seconds: float) -> Standing:
        ours = exists().where(journal.c.ticket_id == tickets.c.id, journal.c.cloud_id == cloud_id)
        columns = tickets.c.state, tickets.c.cloud_id, tickets.c.lease_until, tickets.c.finished
        ticket = connection.execute(
            select(*columns, ours.label("ours"), db_now().label("now")).where(tickets.c.uid == ticket_uid)
        ).one_or_none()
        if ticket is None:
            tombstone = connection.execute(
                select(tombstones.c.published).where(
                    tombstones.c.ticket_uid == ticket_uid, tombstones.c.cloud_id == cloud_id
                )
            ).one_or_none()
            if tombstone is None:
                return Standing.UNKNOWN
            return Standing.KEPT if tombstone.published else Standing.ORPHAN
        if (
            ticket.state not in FINAL
            or ticket.lease_until >= ticket.now
            or (ticket.finished or 0.0) > ticket.now - grace_seconds
            or (ticket.state == State.PUBLISHED and ticket.cloud_id in (None, cloud_id))
        ):
            return Standing.KEPT
        return Standing.ORPHAN if ticket.ours else Standing.UNKNOWN

    def seen_for(self, ticket_uid: str, cloud_id: str) -> float | None:
        """Return how many seconds ago the object was first seen as an orphan; None if it was not."""
        query = select(db_now() - sightings.c.first).where(*_sighting(ticket_uid, cloud_id))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def see(self, ticket_uid: str, cloud_id: str) -> None:
        """Record that an orphan was seen."""
        row = {"ticket_uid": ticket_uid, "cloud_id": cloud_id, "first": db_now(), "last": db_now()}
        seen = upsert(self._engine, sightings).values(row)
        again = seen.on_conflict_do_update(index_elements=["ticket_uid", "cloud_id"], set_={"last": db_now()})
        with writing(self._engine, durable=False) as connection:
            connection.execute(again)

    def lose_sight(self, ticket_uid: str, cloud_id: str) -> None:
        """Forget an orphan that is needed after all. If it is seen again, that counts as the first time."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(sightings).where(*_sighting(ticket_uid, cloud_id)))

    def forget_old(self) -> None:
        """Delete old sightings of objects that are gone, old refusals of accounts that are gone, and the secrets of
        tickets that were deleted long ago."""
        old = sightings.c.last < db_now() - _SIGHTINGS_KEPT_SECONDS
        buried = tombstones.c.created < db_now() - _SECRETS_KEPT_SECONDS, tombstones.c.sealed_secrets.is_not(None)
        nothing = {"account": null(), "target": null(), "sealed_secrets": None}
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(sightings).where(old))
            connection.execute(delete(sweep_refusals).where(sweep_refusals.c.last < db_now() - _SIGHTINGS_KEPT_SECONDS))
            connection.execute(update(tombstones).where(*buried).values(nothing))

    @contextmanager
    def removing(self, ticket_uid: str, cloud_id: str, grace_seconds: float, seconds: float) -> Iterator[bool]:
        """Keep workers from claiming the ticket for `seconds` while the caller deletes the object.

        Records the object as gone when the block ends. Yields False, and records nothing, if the object must stay. The
        object is recorded as condemned from the beginning: even if this process is paused for longer than `seconds`, a
        worker that claims the ticket does not adopt it.
        """
        same_ticket = tickets.c.uid == ticket_uid
        with writing(self._engine) as connection:
            # Lock the ticket's row before reading it: its owner may be retrying it at this moment.
            token = connection.execute(select(tickets.c.lease_token).where(same_ticket).with_for_update()).scalar()
            free = self._standing(connection, ticket_uid, cloud_id, grace_seconds) is Standing.ORPHAN
            if free:
                connection.execute(update(tickets).where(same_ticket).values(lease_until=db_now() + seconds))
                self._mark(connection, ticket_uid, cloud_id, "condemned")
        if not free:
            yield False
            return
        gone = False
        try:
            yield True
            gone = True
        finally:
            with writing(self._engine) as connection:
                # Only our own lease, not that of a worker that has claimed the ticket since.
                held = same_ticket, tickets.c.lease_token == token
                connection.execute(update(tickets).where(*held).values(lease_until=0.0))
                if gone:
                    self._record_gone(connection, ticket_uid, cloud_id)

    def _record_gone(self, connection: Connection, ticket_uid: str, cloud_id: str) -> None:
        self._mark(connection, ticket_uid, cloud_id, "gone")
        left = tickets.c.uid == ticket_uid, tickets.c.cloud_id == cloud_id
        connection.execute(update(tickets).where(*left).values(cloud_id=None, shown_id=None))
        connection.execute(delete(sightings).where(*_sighting(ticket_uid, cloud_id)))
        connection.execute(
            delete(tombstones).where(tombstones.c.ticket_uid == ticket_uid, tombstones.c.cloud_id == cloud_id)
        )

    def _mark(self, connection: Connection, ticket_uid: str, cloud_id: str, state: str) -> None:
        ids = select(tickets.c.id).where(tickets.c.uid == ticket_uid).scalar_subquery()
        same = and_(journal.c.ticket_id == ids, journal.c.cloud_id == cloud_id)
        connection.execute(update(journal).where(same).values(state=state, modified=db_now()))


def _sighting(ticket_uid: str, cloud_id: str) -> tuple[Any, ...]:
    return sightings.c.ticket_uid == ticket_uid, sightings.c.cloud_id == cloud_id


def _digest(scope: Scope) -> str:
    """Return a digest of everything that the sweeper signs in with."""
    place = image_service(scope.platform, scope.account, scope.target)
    sign_in = json.dumps([place, scope.account], sort_keys=True).encode()
    return hashlib.sha256(sign_in + scope.sealed_secrets).hexdigest()
