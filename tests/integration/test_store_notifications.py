"""The outbox, on each kind of database: tickets put notifications into it, and senders take them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from publisher.core.errors import LeaseLost
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from publisher.store.database import notifications, reading, writing
from tests.records import OWNER, add_ticket, words

URL = "https://hooks.example.com/tickets"
MINE = "https://hooks.example.com/mine"


def claimed(store: Store, ticket: Ticket) -> Any:
    claim = store.leases.claim(ticket.id, "worker", 60)
    assert claim
    return claim


def published(store: Store, **values: Any) -> Ticket:
    ticket = add_ticket(store, **({"notify_url": URL} | values))
    store.leases.published(claimed(store, ticket), cloud_id="cloud-1", location="RegionOne")
    return ticket


def count(store: Store) -> int:
    with reading(store.engine) as connection:
        return connection.execute(select(func.count()).select_from(notifications)).scalar_one()


def test_end_of_a_ticket_stores_a_notification(store: Store) -> None:
    ticket = published(store)
    (told,) = store.notifications.list(ticket.id)
    assert (told.url, told.owner, told.event, told.state, told.attempt) == (
        URL, OWNER, "publication.published", "waiting", 0,
    )  # fmt: skip
    content = json.loads(told.body)
    assert content.pop("timestamp").endswith("Z")
    uri = f"users/root/appliances/4/images/1/pimages/{ticket.id}"
    assert content == {
        "type": "publication.published",
        "data": {
            "ticket": ticket.id,
            "uri": uri,
            "statusUri": f"{uri}/status",
            "imageUri": "users/root/appliances/4/images/1",
            "platform": "memory",
            "name": "an image",
            "state": "published",
            "cloudId": "cloud-1",
            "publishLocation": "RegionOne",
        },
    }


def test_notification_has_the_clouds_own_id(store: Store) -> None:
    ticket = add_ticket(store, notify_url=URL)
    store.leases.published(claimed(store, ticket), cloud_id="handle", location=None, shown_id="ami-7")
    (told,) = store.notifications.list(ticket.id)
    assert json.loads(told.body)["data"]["cloudId"] == "ami-7"


def test_only_the_ends_of_tickets_are_notified(store: Store) -> None:
    failed, gone, cancelled = (add_ticket(store, notify_url=URL) for _ in range(3))
    store.leases.retry(claimed(store, failed), delay_seconds=-1, error="not yet")
    assert count(store) == 0
    store.leases.failed(claimed(store, failed), error="the login was not accepted")
    store.tickets.request_cancel(gone.id)
    claim = claimed(store, cancelled)
    store.tickets.request_cancel(cancelled.id)
    assert count(store) == 2
    store.leases.cancelled(claim)
    events = {each.id: [told.event for told in store.notifications.list(each.id)] for each in (failed, gone, cancelled)}
    assert events == {
        failed.id: ["publication.failed"], gone.id: ["publication.cancelled"], cancelled.id: ["publication.cancelled"],
    }  # fmt: skip
    (told,) = store.notifications.list(failed.id)
    assert json.loads(told.body)["data"]["error"] == "the login was not accepted"
    store.tickets.retry(failed.id)
    store.leases.published(claimed(store, failed), cloud_id="cloud-1", location=None)
    assert [each.event for each in store.notifications.list(failed.id)][1:] == ["publication.published"]


def test_end_without_a_lease_stores_no_notification(store: Store) -> None:
    ticket = add_ticket(store, notify_url=URL)
    claim = claimed(store, ticket)
    store.leases.published(claim, cloud_id="cloud-1", location=None)
    with pytest.raises(LeaseLost):
        store.leases.failed(claim, error="too late")
    assert count(store) == 1


def test_urls_of_ticket_and_owner_are_each_notified_once(store: Store) -> None:
    add_ticket(store)
    store.users.set_notify(OWNER, MINE, b"sealed")
    assert [each.url for each in store.notifications.list(published(store).id)] == [MINE, URL]
    assert [each.url for each in store.notifications.list(published(store, notify_url=None).id)] == [MINE]
    assert [each.url for each in store.notifications.list(published(store, notify_url=MINE).id)] == [MINE]
    store.users.set_notify(OWNER, None, None)
    assert store.notifications.list(published(store, notify_url=None).id) == []


def test_notifications_are_removed_with_their_ticket(store: Store) -> None:
    ticket = published(store)
    told = store.notifications.claim(OWNER, URL, 60)
    assert told
    store.tickets.remove(ticket.id)
    assert count(store) == 0
    store.notifications.sent(told, "too late")


def test_only_one_sender_at_a_time_has_a_notification(store: Store, stores: Callable[[], Store]) -> None:
    ticket, other = published(store), stores()
    assert store.notifications.receivers(of_each=4) == [(OWNER, URL)]
    assert store.notifications.receivers(of_each=4, but_of=[OWNER]) == []
    told = store.notifications.claim(OWNER, URL, 60)
    assert told
    assert (told.ticket_id, told.attempt) == (ticket.id, 1)
    assert other.notifications.claim(OWNER, URL, 60) is None
    assert other.notifications.receivers(of_each=4) == []
    store.notifications.again(told, "not yet", delay_seconds=-1, error="it answered 500")
    second = other.notifications.claim(OWNER, URL, 60)
    assert second
    assert (second.uid, second.attempt, second.error) == (told.uid, 2, "it answered 500")
    other.notifications.sent(second, "told")
    assert other.notifications.claim(OWNER, URL, 60) is None
    assert words(store, ticket)[-2:] == ["not yet", "told"]
    entry = store.tickets.history(ticket.id)[-1]
    assert (entry.from_state, entry.to_state) == (State.PUBLISHED, State.PUBLISHED)


def test_notification_of_a_lost_sender_is_taken_again(store: Store) -> None:
    ticket = published(store)
    lost = store.notifications.claim(OWNER, URL, 0)
    again = store.notifications.claim(OWNER, URL, 60)
    assert lost
    assert again
    assert (again.uid, again.attempt) == (lost.uid, 2)
    store.notifications.given_up(lost, "too late", error="?")
    assert store.notifications.list(ticket.id)[0].state == "waiting"
    assert "too late" not in words(store, ticket)
    store.notifications.given_up(again, "no more", error="it answered 410")
    (told,) = store.notifications.list(ticket.id)
    assert (told.state, told.error) == ("failed", "it answered 410")


def test_oldest_notification_is_taken_first(store: Store) -> None:
    first, second = published(store), published(store)
    with writing(store.engine) as connection:
        connection.execute(update(notifications).values(next_at=1.0))
    taken = [store.notifications.claim(OWNER, URL, 60) for _ in range(3)]
    assert [each and each.ticket_id for each in taken] == [first.id, second.id, None]


def test_owner_with_many_notifications_delays_no_other_owner(store: Store) -> None:
    ticket, theirs = published(store), "https://hooks.example.com/theirs"
    published(store, owner="other", notify_url=theirs)
    values = {"ticket_id": ticket.id, "owner": OWNER, "event": "e", "body": "{}", "state": "waiting", "attempt": 0}
    many = [
        {"uid": f"m{each}", "url": f"https://h{each}.example.com/", "next_at": float(each), "created": 1.0}
        for each in range(1000)
    ]
    with writing(store.engine) as connection:
        connection.execute(insert(notifications), [values | each for each in many])
    found = store.notifications.receivers(of_each=3)
    mine = [(OWNER, f"https://h{each}.example.com/") for each in range(3)]
    assert found == [mine[0], ("other", theirs), *mine[1:]]
    assert store.notifications.receivers(of_each=3, but_of=["other"]) == mine
