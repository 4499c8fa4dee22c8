"""Lists of tickets, details of one, and completions for operators."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, update

from publisher.core.ticket import Phase, State
from publisher.store import Store
from publisher.store.database import notifications, samples, tickets, writing
from tests.records import OWNER, add_ticket


def test_lists_have_the_newest_matching_tickets_first(store: Store) -> None:
    first, second, third = (add_ticket(store, platform=each).id for each in ("memory", "openstack", "memory"))
    store.tickets.request_cancel(third)

    def found(**wanted: Any) -> list[int]:
        return [each.id for each in store.tickets.list(newest_first=True, **wanted)]

    assert found() == [third, second, first]
    assert found(count=2) == [third, second]
    assert found(before=third, count=1) == [second]
    assert found(platform="memory") == [third, first]
    assert found(state=State.QUEUED, owner=OWNER) == [second, first]
    assert found(owner="another") == []


def test_all_details_of_a_ticket_can_be_read(store: Store) -> None:
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

    found = store.tickets.get(ticket.id)
    assert found
    assert (found.reason, found.request_id, found.traceparent) == ("quota", "r-1", "00-1-2-01")
    assert [entry.words for entry in store.tickets.history(ticket.id)] == [
        "Accepted",
        "Claimed by a-worker",
        "Uploading",
    ]
    (thing,) = store.tickets.journal(ticket.id)
    assert (thing.cloud_id, thing.state) == ("an-id", "present")
    assert thing.modified >= thing.created > 0
    first, second = store.publications.uploads([ticket.id])[ticket.id]
    assert (first.attempt, first.samples, first.sent_last, first.bytes_per_second) == (1, 2, 500, 50.0)
    assert (second.attempt, second.bytes_per_second) == (2, None)
    assert store.publications.rates([ticket.id]) == {ticket.id: 50.0}
    (notice,) = store.notifications.list(ticket.id)
    assert (notice.event, notice.state, notice.attempt, notice.created) == ("publication.ended", "failed", 3, 30.0)
    assert (notice.url, notice.error) == ("https://example.com/?token=x", "refused")
    assert "token" not in repr(notice)
    assert store.publications.uploads([ticket.id + 1]) == {}


@pytest.mark.parametrize(("kind", "beginning"), [("tickets", "1"), ("images", "1"), ("users", "roo")])
def test_completions_begin_with_the_given_text(store: Store, kind: str, beginning: str) -> None:
    add_ticket(store)
    assert [name for name, _ in store.names(kind, beginning, 5)] == [{"users": "root"}.get(kind, "1")]
    assert store.names(kind, "%", 5) == []
    assert store.names(kind, "", 0) == []
