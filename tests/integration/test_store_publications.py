"""The store lists the wanted publications, and is as quick for many as for few."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from sqlalchemy import insert, select, text, update

from publisher.core.ticket import Phase, Sample, State
from publisher.intake.documents import status_document
from publisher.store import Store, publications
from publisher.store.database import images, reading, ticket_names, tickets, writing
from publisher.store.publications import COUNTED_MAX, WholeList, names_query, page_query, whole_page_query
from publisher.store.ticket_rows import Extent, TicketFilter, select_tickets
from tests.conftest import open_store
from tests.records import add_ticket, current, put_back, remove_image, statements
from tests.servers.postgres import PostgresServer

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


NAMES = [
    *("Web server", "web-SERVER 2", "50%_web", "50%web", "a_b", "axb", "ab", "abc", "ABC", "aBcABCabc", "100%"),
    *("\u00c5sa's image", "\u00e5sa's image", "STRASSE", "stra\u00dfe", "\u0130stanbul", "istanbul", "\u212aelvin"),
    *("\U0001f600\U0001f600\U0001f601", "\U0001f600abc", "back\\slash", "sl/ash", "quo'te", 'quo"te', "a b  c"),
    *("x" * 255, "12", "123 456", "#1", "-- * OR NOT ^ AND", "(near)", "\u65e5\u672c\u8a9e\u306e", "caf\u00e9"),
    *("cafe\u0301", "e\u0301e\u0301e", "kelvin"),
]  # fmt: skip


@contextmanager
def fresh_store(server: PostgresServer) -> Iterator[Store]:
    url = server.fresh()
    store = open_store(url)
    store.migrate()
    yield store
    store.close()
    server.drop(url)


@pytest.fixture(params=["sqlite", *(pytest.param(each, marks=pytest.mark.real) for each in ("plain", "trigrams"))])
def searched(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with tickets of all `NAMES`: on SQLite, and on PostgreSQL without and with `pg_trgm`."""
    if request.param == "sqlite":
        store = request.getfixturevalue("sqlite_store")
        _fill(store)
        yield store
        return
    server = request.getfixturevalue("postgres" if request.param == "plain" else "postgres_with_trigrams")
    with fresh_store(server) as store:
        _fill(store)
        yield store


def _fill(store: Store) -> None:
    add_ticket(store)
    with writing(store.engine) as connection:
        row = dict(connection.execute(select(tickets)).one()._mapping)
        copies = [row | {"id": at + 2, "uid": str(at), "name": name} for at, name in enumerate(NAMES)]
        connection.execute(insert(tickets), copies)


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=some.one_of(
        some.sampled_from(NAMES).flatmap(
            lambda name: some.tuples(some.integers(0, len(name)), some.integers(1, 9)).map(
                lambda part: name[part[0] : part[0] + part[1]]
            )
        ),
        some.sampled_from(NAMES).map(str.swapcase),
        some.text("abcABC%_\\/'\"*\u00e5\u00c5\u0130\u212a\U0001f600 1#", max_size=6),
        some.text(max_size=5).map(lambda text: text.replace("\0", "")),
    )
)
def test_search_finds_the_same_with_and_without_the_index(searched: Store, words: str) -> None:
    assume(words.isprintable())
    wanted = TicketFilter(words=words)
    with reading(searched.engine) as connection:
        plain = [row.id for row in connection.execute(select_tickets(wanted, newest_first=True))]
    assert ids(searched, wanted, 100) == plain
    assert ids(searched, replace(wanted, owner="nobody"), 100) == []


def test_index_of_names_follows_the_tickets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (add_ticket(store, name=name) for name in ("first image", "second image", "third image"))

    def indexed() -> dict[int, str]:
        with reading(store.engine) as connection:
            return {row.rowid: row.name for row in connection.execute(select(ticket_names))}

    assert indexed() == {one.id: "first image", two.id: "second image", three.id: "third image"}
    with writing(store.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == two.id).values(name="renamed"))
        connection.execute(update(tickets).where(tickets.c.id == one.id).values(sent=5))
    assert indexed() == {one.id: "first image", two.id: "renamed", three.id: "third image"}
    assert ids(store, TicketFilter(words="RENAMED")) == [two.id]
    assert ids(store, TicketFilter(words="second")) == []
    store.tickets.request_cancel(one.id)
    store.tickets.remove(one.id)
    assert indexed() == {two.id: "renamed", three.id: "third image"}
    with writing(store.engine) as connection:
        connection.execute(update(tickets).values(name="undone"))
        connection.rollback()
    assert ids(store, TicketFilter(words="undone")) == []
    # A name that very many tickets have is not looked up: the newest tickets fill the page.
    monkeypatch.setattr(publications, "COUNTED_MAX", 1)
    assert ids(store, TicketFilter(words="%_")) == []
    assert ids(store, TicketFilter(words="rename")) == [two.id]
    assert ids(store, TicketFilter(words="d i")) == [three.id]


@pytest.mark.real
def test_search_on_postgresql_uses_trigrams(postgres_with_trigrams: PostgresServer) -> None:
    with fresh_store(postgres_with_trigrams) as store, writing(store.engine) as connection:
        query = names_query("postgresql", "RARE").limit(COUNTED_MAX)
        sql = str(query.compile(store.engine, compile_kwargs={"literal_binds": True}))
        connection.execute(text("SET LOCAL enable_seqscan = off"))  # these are few names
        assert "ix_ticket_names_name" in "".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {sql}"))


def test_search_on_sqlite_uses_trigrams(sqlite_store: Store) -> None:
    query = names_query("sqlite", "RARE").limit(COUNTED_MAX)
    sql = str(query.compile(sqlite_store.engine, compile_kwargs={"literal_binds": True}))
    with reading(sqlite_store.engine) as connection:
        (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")
    assert "VIRTUAL TABLE INDEX 0:L0" in plan[3]


def test_page_of_a_search_reads_only_the_tickets_with_such_a_name(store: Store) -> None:
    add_ticket(store, name="another")
    rare = add_ticket(store, name="a rare name")
    with statements(store.engine) as executed:
        assert ids(store, TicketFilter(words="RARE")) == [rare.id]
    look_up, page = executed
    assert "ticket_names" in look_up
    assert "tickets.id IN (" in page


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
    lists, image, elsewhere = store.publications, store.images.get(1), store.images.get(2)
    assert image
    assert elsewhere
    assert [each.id for each in lists.of_image(image, 10)] == [two.id, one.id]
    assert [each.id for each in lists.of_image(image, 1)] == [two.id]
    assert [each.id for each in lists.of_image(image, 10, unfinished=True)] == [two.id]
    assert [each.id for each in lists.of_image(elsewhere, 10)] == [other.id]


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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("extent", Extent)
@pytest.mark.parametrize(
    "wanted",
    [TicketFilter("user1"), TicketFilter("user1", 4), TicketFilter("user1", 4, 1), TicketFilter("user1", image_id=1)],
)
def test_a_page_of_a_whole_list_is_read_in_its_order_from_an_index(
    full_store: Store, wanted: TicketFilter, extent: Extent
) -> None:
    query = whole_page_query(replace(wanted, platforms=["openstack"]), extent, MANY // 2, MANY)
    sql = str(query.compile(full_store.engine, compile_kwargs={"literal_binds": True}))
    with reading(full_store.engine) as connection:
        if full_store.engine.dialect.name == "sqlite":
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
            assert all(step.startswith("SEARCH") for step in plan), plan
        else:
            lines = "".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {sql}"))
            assert "Seq Scan on tickets" not in lines


def test_listed_ticket_has_its_time_of_acceptance(store: Store) -> None:
    ticket = add_ticket(store)
    assert store.publications.these([ticket.id])[0].accepted == current(store, ticket).accepted


def whole(store: Store, wanted: TicketFilter, extent: Extent = Extent.WHOLE) -> WholeList:
    found = store.publications.whole(wanted, extent)
    assert isinstance(found, WholeList)
    return found


def test_whole_list_is_read_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [add_ticket(store, owner=owner, image_id=image) for image in (1, 2) for owner in ("root", "anna", "root")]
    remove_image(store, 2)
    mine = [each for each in made if each.owner == "root"]
    for count in (1, 3, 4, 9):
        monkeypatch.setattr(publications, "WHOLE_PAGE", count)
        found = whole(store, TicketFilter("root"))
        pages = list(found.pages)
        assert all(len(page) <= count for page in pages)
        assert [pair for page in pages for pair in page] == [(each, store.images.get(each.image_id)) for each in mine]
        assert (found.state.total, found.short) == (4, count >= 4)
        assert found.state.changed == max(mine[-1].changed, mine[0].changed)
        statuses = [ticket for page in whole(store, TicketFilter("root"), Extent.STATUS).pages for ticket, _ in page]
        assert [status_document(each) for each in statuses] == [status_document(each) for each in mine]
    for wanted in (TicketFilter("nobody"), TicketFilter("root", ids=()), TicketFilter("root", platforms=["aws"])):
        none = whole(store, wanted)
        assert (none.state.total, none.state.changed, none.short, list(none.pages)) == (0, 0.0, True, [])
    assert store.publications.whole(TicketFilter("root"), Extent.WHOLE, unless=lambda _: True) == found.state


def test_state_of_a_list_changes_with_every_change(store: Store) -> None:
    first, second = add_ticket(store), add_ticket(store)
    seen = [whole(store, TicketFilter("root")).state.version]

    def check() -> None:
        now = whole(store, TicketFilter("root")).state.version
        assert now not in seen
        assert now == whole(store, TicketFilter("root")).state.version
        seen.append(now)

    claim = store.leases.claim(second.id, "worker", 60.0)
    assert claim
    check()
    store.leases.phase(claim, Phase.UPLOADING, "on it")
    check()
    for sent in (5, 6):
        store.leases.renew(claim, 60.0, sent=sent)
        check()
    # A transaction that began earlier may end later, with a time before the latest one.
    put_back(store, first, modified=1000)
    check()
    put_back(store, first, modified=999)
    check()
    store.tickets.request_cancel(first.id)
    check()
    with writing(store.engine) as connection:
        connection.execute(update(images).where(images.c.id == 1).values(modified=images.c.modified - 1e-3))
    check()
    store.tickets.remove(first.id)
    check()
    add_ticket(store)
    check()
