"""The store lists the wanted publications, and is as quick for many as for few."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import insert, select, text

from publisher.core.ticket import Sample, State
from publisher.store import Store
from publisher.store.engine import reading, writing
from publisher.store.publications import COUNTED_MAX, page_query
from publisher.store.tables import tickets
from publisher.store.ticket_rows import TicketFilter
from tests.records import add_ticket, current, put_back

MANY = 3000


def ids(store: Store, wanted: TicketFilter, count: int = 10, **where: int) -> list[int]:
    return [ticket.id for ticket in store.publications.page(wanted, count, **where).tickets]


def test_wanted_tickets_are_listed_newest_first(store: Store) -> None:
    mine, theirs = add_ticket(store, name="Web server"), add_ticket(store, owner="other", platform="openstack")
    last = add_ticket(store, name="50%_web")
    store.tickets.request_cancel(last.id)
    assert ids(store, TicketFilter()) == [last.id, theirs.id, mine.id]
    assert ids(store, TicketFilter(owner="other")) == ids(store, TicketFilter(platform="openstack")) == [theirs.id]
    assert ids(store, TicketFilter(state=State.CANCELLED)) == ids(store, TicketFilter(words="%_")) == [last.id]
    assert ids(store, TicketFilter(words="WEB")) == [last.id, mine.id]
    assert (
        ids(store, TicketFilter(words=str(theirs.id))) == ids(store, TicketFilter(words=f"#{theirs.id}")) == [theirs.id]
    )
    assert ids(store, TicketFilter(words="9" * 30)) == ids(store, TicketFilter(owner="other", state=State.FAILED)) == []
    assert [ticket.id for ticket in store.publications.these([mine.id, last.id, 99])] == [last.id, mine.id]
    assert store.publications.platforms() == ["memory", "openstack"]


def test_list_omits_values_that_it_does_not_need(store: Store) -> None:
    full = add_ticket(store, account={"login": "somebody"}, target={"displayName": "x"})
    (ticket,) = store.publications.page(TicketFilter(), 10).tickets
    assert (ticket.account, ticket.target, ticket.sealed_secrets) == ({}, {}, None)
    assert (ticket.id, ticket.name, ticket.state, ticket.progress) == (full.id, full.name, full.state, full.progress)


def test_pages_follow_each_other_in_both_directions(store: Store) -> None:
    one, two, three, four, five = (add_ticket(store).id for _ in range(5))
    first = store.publications.page(TicketFilter(), 2)
    assert ([each.id for each in first.tickets], first.newer, first.older) == ([five, four], False, True)
    second = store.publications.page(TicketFilter(), 2, before=four)
    assert ([each.id for each in second.tickets], second.newer, second.older) == ([three, two], True, True)
    last = store.publications.page(TicketFilter(), 2, before=two)
    assert ([each.id for each in last.tickets], last.newer, last.older) == ([one], True, False)
    back = store.publications.page(TicketFilter(), 2, after=three)
    assert ([each.id for each in back.tickets], back.newer, back.older) == ([five, four], False, True)
    assert ids(store, TicketFilter(), 2, after=two) == [four, three]


def test_tickets_of_an_image_are_listed(store: Store) -> None:
    one, two, other = add_ticket(store), add_ticket(store), add_ticket(store, image_id=2)
    store.tickets.request_cancel(one.id)
    publications, image, elsewhere = store.publications, store.images.get(1), store.images.get(2)
    assert image
    assert elsewhere
    assert [each.id for each in publications.of_image(image, 10)] == [two.id, one.id]
    assert [each.id for each in publications.of_image(image, 1)] == [two.id]
    assert [each.id for each in publications.of_image(image, 10, unfinished=True)] == [two.id]
    assert [each.id for each in publications.of_image(elsewhere, 10)] == [other.id]


def test_tickets_of_another_image_with_the_same_number_are_not_listed(store: Store) -> None:
    mine = add_ticket(store)
    add_ticket(store, owner="other")
    add_ticket(store, appliance_id=99)
    put_back(store, add_ticket(store), created=1000)
    image = store.images.get(1)
    assert image
    for unfinished in (False, True):
        assert [each.id for each in store.publications.of_image(image, 10, unfinished=unfinished)] == [mine.id]


def test_samples_are_read_for_their_ticket_only(store: Store) -> None:
    ticket = add_ticket(store)
    with writing(store.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO ticket_samples (ticket_id, attempt, at, sent) VALUES (:id, 1, 10.5, 0), (:id, 1, 11.5, 7)"
            ),
            {"id": ticket.id},
        )
    assert store.tickets.samples(ticket.id) == [Sample(1, 10.5, 0), Sample(1, 11.5, 7)]
    assert store.tickets.samples(ticket.id + 1) == []


@pytest.fixture
def full_store(store: Store) -> Store:
    """A store of many users' tickets. Most are published, and few have other states or platforms."""
    first = add_ticket(store, platform="openstack")
    with writing(store.engine) as connection:
        row = dict(connection.execute(select(tickets)).one()._mapping)
        copies = [
            row
            | {
                "id": first.id + number,
                "uid": str(uuid.uuid4()),
                "owner": f"user{number % 50}",
                "state": State.FAILED if number % 100 == 0 else State.PUBLISHED,
                "platform": "memory" if number % 500 == 0 else "openstack",
            }
            for number in range(1, MANY)
        ]
        connection.execute(insert(tickets), copies)
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE tickets"))
    return store


@pytest.mark.long
def test_states_are_counted_up_to_a_maximum(full_store: Store) -> None:
    counts = full_store.publications.counts()
    assert counts == dict.fromkeys(State, 0) | {
        State.QUEUED: 1, State.FAILED: MANY // 100 - 1, State.PUBLISHED: COUNTED_MAX + 1,
    }  # fmt: skip
    assert full_store.publications.counts("user1")[State.PUBLISHED] == MANY // 50


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        (TicketFilter(), {}),
        (TicketFilter(), {"before": MANY // 2}),
        (TicketFilter(), {"after": MANY // 2}),
        (TicketFilter(state=State.FAILED), {}),
        (TicketFilter(state=State.QUEUED), {}),
        (TicketFilter(state=State.PUBLISHED), {"before": MANY // 2}),
        (TicketFilter(owner="user1"), {}),
        (TicketFilter(owner="user1", state=State.FAILED), {}),
        (TicketFilter(platform="memory"), {}),
        (TicketFilter(platform="nothing"), {}),
    ],
)
def test_a_page_is_read_in_its_order_from_an_index(
    full_store: Store, wanted: TicketFilter, where: dict[str, int]
) -> None:
    """The database sorts nothing and does not read the whole table, so that a page is quick among many tickets."""
    query = page_query(wanted, 50, **where)
    sql = str(query.compile(full_store.engine, compile_kwargs={"literal_binds": True}))
    with reading(full_store.engine) as connection:
        if full_store.engine.dialect.name == "sqlite":
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
            # For the order by number, the table itself is the index.
            by_number = wanted == TicketFilter()
            assert len(plan) == 1, plan
            assert plan[0].startswith("SEARCH") or (by_number and plan[0].startswith("SCAN")), plan
        else:
            plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {sql}")]
            assert "Index Scan" in "".join(plan), plan
            assert "Seq Scan" not in "".join(plan), plan


def test_listed_ticket_has_its_time_of_acceptance(store: Store) -> None:
    ticket = add_ticket(store)
    assert store.publications.these([ticket.id])[0].accepted == current(store, ticket).accepted
