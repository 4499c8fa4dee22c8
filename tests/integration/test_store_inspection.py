"""What operators look through: lists of tickets, and all that is known of one."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, update

from publisher.core.ticket import Phase, State
from publisher.store import Store
from publisher.store.engine import writing
from publisher.store.inspection import Notice, Selection
from publisher.store.tables import notifications, samples, tickets
from tests.records import OWNER, add_ticket


def test_the_newest_tickets_of_a_kind(store: Store) -> None:
    first, second, third = (add_ticket(store, platform=each).id for each in ("memory", "openstack", "memory"))
    store.tickets.request_cancel(third)

    def found(selection: Selection, count: int | None = None) -> list[int]:
        return [each.id for each in store.inspection.latest(selection, count)]

    assert found(Selection()) == [third, second, first]
    assert found(Selection(), 2) == [third, second]
    assert found(Selection(before=third), 1) == [second]
    assert found(Selection(platform="memory")) == [third, first]
    assert found(Selection(state=State.QUEUED, owner=OWNER)) == [second, first]
    assert found(Selection(owner="another")) == []


def test_all_that_is_known_of_a_ticket(store: Store) -> None:
    ticket = add_ticket(store)
    claim = store.leases.claim(ticket.id, "a-worker", 60)
    assert claim
    store.leases.phase(claim, Phase.UPLOADING, "Uploading")
    store.leases.plan(claim, "an-id")
    store.leases.mark(claim, "an-id", "present")
    with writing(store.engine) as connection:
        for attempt, at, sent in ((1, 0, 0), (1, 10, 500), (2, 20, 7)):
            row = {"ticket_id": ticket.id, "attempt": attempt, "at": at, "sent": sent}
            connection.execute(insert(samples).values(row))
        told = {"uid": "u", "owner": OWNER, "url": "https://example.com/?token=x", "event": "publication.ended"}
        state = {"body": "{}", "state": "failed", "attempt": 3, "next_at": 0.0, "created": 30.0, "error": "refused"}
        connection.execute(insert(notifications).values(ticket_id=ticket.id, **told, **state))
        known = {"reason": "quota", "request_id": "r-1", "traceparent": "00-1-2-01"}
        connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(known))

    dossier = store.inspection.dossier(ticket.id)

    assert dossier
    assert dossier.ticket == store.tickets.get(ticket.id)
    assert (dossier.reason, dossier.request_id, dossier.traceparent) == ("quota", "r-1", "00-1-2-01")
    assert [entry.words for entry in dossier.history] == ["Accepted", "Claimed by a-worker", "Uploading"]
    (thing,) = dossier.cloud_objects
    assert (thing.cloud_id, thing.state) == ("an-id", "present")
    assert thing.modified >= thing.created
    first, second = dossier.paces
    assert (first.attempt, first.samples, first.sent_last, first.bytes_per_second) == (1, 2, 500, 50.0)
    assert (second.attempt, second.bytes_per_second) == (2, None)
    assert list(dossier.notices) == [Notice("publication.ended", "failed", 3, 30.0, "refused")]
    assert store.inspection.dossier(ticket.id + 1) is None


@pytest.mark.parametrize(("kind", "beginning"), [("tickets", "1"), ("images", "1"), ("users", "roo")])
def test_what_begins_so(store: Store, kind: str, beginning: str) -> None:
    add_ticket(store)
    assert [name for name, _ in store.inspection.names(kind, beginning, 5)] == [{"users": "root"}.get(kind, "1")]
    assert store.inspection.names(kind, "%", 5) == []
    assert store.inspection.names(kind, "", 0) == []
