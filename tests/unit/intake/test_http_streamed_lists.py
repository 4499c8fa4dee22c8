"""Long lists of published images are sent while they are read, with the same bytes and headers as short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from publisher.core.image import Image
from publisher.core.ticket import State, Ticket
from publisher.store import database, publications
from publisher.store.database import db_now, writing
from publisher.store.ticket_rows import Extent, TicketFilter
from tests.service import JSON, XML, Service, xml_body

APPLIANCE = "users/alice/appliances/14"
PATHS = (
    "users/alice/pimages",
    "users/alice/pimages/status",
    f"{APPLIANCE}/pimages",
    f"{APPLIANCE}/pimages/statuses",
    f"{APPLIANCE}/images/21/pimages",
    "users/alice/pimages?img=22",
    f"users/alice/pimages/status?img={APPLIANCE}/images/23",
)
PAGE = 3


@pytest.fixture
def filled(fresh: Service) -> Service:
    """An intake with ten tickets of three images: queued, in progress and ended."""
    tickets = [
        fresh.publish(xml_body(image=None, displayName=f"</publishImages>]]}} \u00e5 & <{number}>"), image=image)
        for number, image in enumerate([21, 21, 22, 23, 21, 21, 21, 22, 23, 21])
    ]
    fresh.store.leases.renew(fresh.claim(tickets[1]), 60.0, sent=1000)
    fresh.store.leases.failed(fresh.claim(tickets[2]), error="the quota is used up")
    fresh.store.tickets.request_cancel(tickets[5].id)
    with writing(fresh.store.engine) as connection:  # a change in this second would get no 304 by its date
        connection.execute(update(database.images).values(modified=db_now() - 100))
        connection.execute(update(database.tickets).values(modified=db_now() - 100))
        connection.execute(update(database.tickets).where(database.tickets.c.sent > 0).values(progressed=db_now() - 90))
    return fresh


def in_pages_of(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(publications, "WHOLE_PAGE", count)


@pytest.mark.long
@pytest.mark.parametrize("accept", [XML, JSON])
@pytest.mark.parametrize("path", PATHS)
def test_streamed_list_is_the_same_as_a_whole_one(
    filled: Service, monkeypatch: pytest.MonkeyPatch, path: str, accept: str
) -> None:
    options: dict[str, Any] = {"login": "alice", "accept": accept}
    whole = filled.get(path, **options)
    assert whole.status == 200
    assert int(whole.headers["content-length"]) == len(whole.body)
    for count in (1, 2, PAGE, 9, 10):
        in_pages_of(monkeypatch, count)
        streamed = filled.get(path, **options)
        assert (streamed.status, streamed.body) == (200, whole.body)
        same = set(whole.headers) - {"content-length", "x-request-id"}
        assert {name: streamed.headers[name] for name in same} == {name: whole.headers[name] for name in same}
        head = filled.call("HEAD", path, **options)
        assert (head.status, head.headers["etag"]) == (200, whole.headers["etag"])
        for name, value in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
            unmodified = filled.get(path, headers={name: whole.headers[value]}, **options)
            assert (unmodified.status, unmodified.body) == (304, b"")


def test_streamed_list_has_only_platforms_that_the_answer_may_name(
    filled: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = xml_body(image=None, account__targetPlatform={"name": "memory"})
    filled.publish(body, image=21)
    in_pages_of(monkeypatch, PAGE)
    for path, shown in ((PATHS[0], 10), (f"{PATHS[0]}?extensions=true", 11)):
        answer = filled.get(path, login="alice")
        assert answer.text("total") == str(len(answer.xml.findall("*/*"))) == str(shown)


@pytest.mark.long
def test_unchanged_list_is_answered_without_reading_its_tickets(
    filled: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    etags = {path: filled.get(path, login="alice").headers["etag"] for path in PATHS}

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(publications, "_whole_page", fail)
    for path, etag in etags.items():
        assert filled.get(path, login="alice", headers={"If-None-Match": etag}).status == 304


def test_change_of_an_image_changes_the_list(filled: Service) -> None:
    before = filled.get(PATHS[0], login="alice")
    with writing(filled.store.engine) as connection:  # as if it was registered again
        changed = update(database.images).where(database.images.c.id == 23)
        connection.execute(changed.values(md5="9" * 32, modified=db_now()))
    after = filled.get(PATHS[0], login="alice", headers={"If-None-Match": before.headers["etag"]})
    assert after.status == 200
    assert after.body != before.body


@pytest.mark.parametrize("good", [0, 1])
def test_error_in_a_later_page_never_makes_a_complete_answer(
    filled: Service, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    in_pages_of(monkeypatch, PAGE)
    read: Callable[..., Sequence[tuple[Ticket, Image | None]]] = publications._whole_page
    pages = []

    def read_some(*arguments: Any) -> Sequence[tuple[Ticket, Image | None]]:
        pages.append(arguments)
        if len(pages) > good:
            raise OperationalError("SELECT", {}, Exception("away"))
        return read(*arguments)

    monkeypatch.setattr(publications, "_whole_page", read_some)
    answer = filled.get(PATHS[0], login="alice", accept=JSON)
    if good:
        assert answer.status == 200
        assert not answer.body.endswith(b"]}}")
    else:
        assert answer.status == 503
        assert answer.problem()


# The store ----------------------------------------------------------------------------------------------------------


def test_a_reader_of_a_list_holds_no_connection_and_sees_the_tickets_of_its_beginning(
    filled: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pages_of(monkeypatch, PAGE)
    store = filled.store
    found = store.publications.whole(TicketFilter("alice"), Extent.STATUS)
    assert isinstance(found, publications.WholeList)
    shown = [ticket.id for ticket, _ in next(found.pages)]
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    filled.publish()
    gone = store.tickets.request_cancel(5)
    assert gone.state is State.CANCELLED
    store.tickets.remove(gone.id)
    for page in found.pages:
        shown += [ticket.id for ticket, _ in page]
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert found.state.total == 10
    assert shown == [1, 2, 3, 4, 6, 7, 8, 9, 10]
