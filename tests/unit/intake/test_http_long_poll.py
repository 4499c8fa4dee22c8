"""Long polls: callers that wait for a ticket to change."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from publisher.core.ticket import Phase, Ticket
from publisher.intake import long_poll
from publisher.intake.documents import status_document
from publisher.intake.long_poll import TicketStatus, Watcher
from publisher.intake.wire.formats import Format
from publisher.store import database
from publisher.store.database import writing
from tests.installation import eventually
from tests.service import IMAGE_SIZE, JSON, XML, Answer, Service, ticket_path

pytestmark = pytest.mark.long

AT_ONCE = 40.0
"""Seconds. Even a busy machine answers at once in less time, and a full wait takes 60 seconds."""

Holding = Callable[..., "Future[Answer]"]


@pytest.fixture
def hold(fresh: Service) -> Iterator[Holding]:
    """Sends a request in a separate thread and returns once the intake holds it."""
    pool = ThreadPoolExecutor(16)

    def held(ticket: Ticket, wait: str = "60", **options: Any) -> Future[Answer]:
        before = len(watcher(fresh))
        future = pool.submit(fresh.get, f"{ticket_path(ticket)}/status?wait={wait}", **{"login": "alice"} | options)
        eventually(lambda: len(watcher(fresh)) > before or future.done(), 10)
        assert not future.done()
        return future

    yield held
    pool.shutdown()


def watcher(service: Service) -> Watcher:
    found = service.app.state.watcher
    assert isinstance(found, Watcher)
    return found


def poll(service: Service, ticket: Ticket, wait: str, **options: Any) -> Answer:
    return service.get(f"{ticket_path(ticket)}/status?wait={wait}", **{"login": "alice"} | options)


def forget(service: Service, ticket: Ticket) -> None:
    with writing(service.store.engine) as connection:
        connection.execute(delete(database.tickets).where(database.tickets.c.id == ticket.id))


# The parameter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["0", "0.0", "1", "0.5", "60", "60.0", "007"])
def test_ended_ticket_is_answered_at_once_for_any_valid_wait(service: Service, wait: str) -> None:
    """A poll of an ended ticket is answered at once, however long the caller would wait."""
    ticket = service.publish()
    service.store.tickets.request_cancel(ticket.id)
    began = time.monotonic()
    assert poll(service, ticket, wait).status == 200
    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize(
    "wait",
    ["", "-1", "-0", "60.001", "61", "1e1", "nan", "inf", "abc", "1,5", "0x1", "+1", "%201", "1_0", ".5", "5.",
     "%D9%A3", "9" * 400, "1&wait=1", "&wait=1"],
)  # fmt: skip
def test_invalid_wait_is_refused(service: Service, wait: str) -> None:
    answer = poll(service, service.publish(), wait)
    assert answer.status == 400
    assert answer.problem().startswith("wait: ")


def test_refused_caller_does_not_wait(service: Service) -> None:
    ticket = service.publish()
    assert poll(service, ticket, "60", login=None).status == 401
    assert poll(service, ticket, "60", login="bob").status == 404
    assert poll(service, ticket, "60", login="carol").status == 404
    assert service.get(f"{ticket_path(ticket)}9/status?wait=60", login="alice").status == 404


# Changes ----------------------------------------------------------------------------------------------------------


def test_change_ends_the_wait(fresh: Service, hold: Holding) -> None:
    ticket = fresh.publish()
    held = hold(ticket, accept=JSON)
    claim = fresh.claim(ticket)
    assert held.result(AT_ONCE).json["message"] == "Preparing"
    changes: list[tuple[Callable[[], object], tuple[str, object]]] = [
        (lambda: fresh.store.leases.phase(claim, Phase.UPLOADING, "on it"), ("message", "Uploading 0 of 2048 MiB")),
        (lambda: fresh.store.leases.renew(claim, 60.0, sent=IMAGE_SIZE // 2), ("percentage", 50)),
        (lambda: fresh.store.leases.published(claim, cloud_id="c1", location=None), ("complete", True)),
    ]
    for change, told in changes:
        held = hold(ticket, accept=JSON)
        change()
        assert held.result(AT_ONCE).json[told[0]] == told[1]
    eventually(lambda: watcher(fresh)._task is None, 5)


def test_renewed_lease_does_not_end_the_wait(fresh: Service, hold: Holding) -> None:
    ticket = fresh.publish()
    claim = fresh.claim(ticket)
    fresh.store.leases.renew(claim, 60.0, sent=1000)
    held = hold(ticket, "1", accept=JSON)
    fresh.store.leases.renew(claim, 90.0, sent=1000)
    before = time.monotonic()
    assert held.result(AT_ONCE).json["bytesLoaded"] == 1000
    assert time.monotonic() - before > 0.5


def test_timed_out_wait_returns_the_unchanged_status(fresh: Service) -> None:
    ticket = fresh.publish()
    plain = poll(fresh, ticket, "0")
    held = poll(fresh, ticket, "0.05")
    assert (held.status, held.body) == (200, plain.body)
    assert held.headers["etag"] == plain.headers["etag"]


@pytest.mark.parametrize("accept", [XML, JSON])
@pytest.mark.parametrize(("header", "field"), [("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")])
def test_conditional_request_is_held_until_a_change(
    fresh: Service, hold: Holding, accept: str, header: str, field: str
) -> None:
    """The request is held as long as its answer would be 304."""
    ticket = fresh.publish()
    with writing(fresh.store.engine) as connection:
        # Long ago, because If-Modified-Since cannot see changes within one second.
        connection.execute(database.tickets.update().values(modified=1_700_000_000.5))
    first = poll(fresh, ticket, "0", accept=accept)
    known = {header: first.headers[field]}

    up = poll(fresh, ticket, "0.05", accept=accept, headers=known)
    assert (up.status, up.body) == (304, b"")
    assert up.headers["etag"] == first.headers["etag"]

    held = hold(ticket, accept=accept, headers=known)
    fresh.claim(ticket)
    changed = held.result(AT_ONCE)
    assert changed.status == 200
    assert changed.body == poll(fresh, ticket, "0", accept=accept).body

    began = time.monotonic()
    assert poll(fresh, ticket, "60", accept=accept, headers=known).body == changed.body
    assert time.monotonic() - began < AT_ONCE


def test_known_status_of_an_ended_ticket_gets_304_at_once(service: Service) -> None:
    ticket = service.publish()
    service.store.tickets.request_cancel(ticket.id)
    etag = poll(service, ticket, "0").headers["etag"]
    began = time.monotonic()
    assert poll(service, ticket, "60", headers={"If-None-Match": etag}).status == 304
    assert time.monotonic() - began < AT_ONCE


def test_deleted_ticket_ends_the_wait_with_404(fresh: Service, hold: Holding) -> None:
    ticket, other = fresh.publish(), fresh.publish()
    held, stays = hold(ticket), hold(other, "2")
    forget(fresh, ticket)
    answer = held.result(AT_ONCE)
    assert answer.status == 404
    assert str(ticket.id) in answer.problem()
    assert stays.result(AT_ONCE).status == 200


# Many callers -----------------------------------------------------------------------------------------------------


def test_many_callers_share_one_query_and_one_document(
    fresh: Service, hold: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one statement for all tickets and one document per ticket and format. Other tickets stay held."""
    looks: list[set[int]] = []
    documents: list[int] = []
    versions, document = fresh.store.tickets.versions, status_document

    def looked(ids: Any) -> Any:
        looks.append(set(ids))
        return versions(ids)

    def written(ticket: Ticket) -> Any:
        documents.append(ticket.id)
        return document(ticket)

    ticket, other = fresh.publish(), fresh.publish()
    # Patched before anybody waits, because a query that has already begun may see the claim.
    monkeypatch.setattr(fresh.store.tickets, "versions", looked)
    held = [hold(ticket, accept=accept) for accept in (XML, JSON) for _ in range(5)]
    others = [hold(other) for _ in range(2)]
    monkeypatch.setattr(long_poll, "status_document", written)
    fresh.claim(ticket)
    answers = [each.result(AT_ONCE) for each in held]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 2
    assert documents == [ticket.id, ticket.id]
    assert {ticket.id, other.id} in looks
    assert not any(each.done() for each in others)
    fresh.claim(other)
    assert [each.result(AT_ONCE).status for each in others] == [200, 200]


def test_callers_share_an_answer_as_long_as_its_date_is_right(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last-Modified is never in the future, so it grows until the second after the change has come."""
    latest = TicketStatus(fresh.publish())
    changed = math.ceil(latest.ticket.changed)

    def answer(at: float, form: Format = Format.XML, **headers: str) -> Response:
        monkeypatch.setattr(time, "time", lambda: at)
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        request = Request({"type": "http", "method": "GET", "headers": sent})
        return latest.answer(request, form, conditional=bool(headers))

    first, second, third = answer(changed - 1), answer(changed - 0.5), answer(changed + 0.5)
    assert first is second
    assert first.body == third.body
    dates = [parsedate_to_datetime(each.headers["last-modified"]).timestamp() for each in (first, third)]
    assert dates == [changed - 1, changed]
    assert answer(changed + 100) is third
    assert answer(changed + 100, if_none_match='"other"') is third
    assert answer(changed + 100, Format.JSON).headers["content-type"] == "application/json"
    known = answer(changed + 100, if_none_match=third.headers["etag"])
    assert (known.status_code, known.body) == (304, b"")


@pytest.mark.parametrize(("query", "pause"), [(0.0001, 0.05), (0.0008, 0.08), (0.02, 0.1), (30, 0.1)])
def test_slow_query_is_made_less_often(query: float, pause: float) -> None:
    assert long_poll._pause_seconds(query) == pytest.approx(pause)


def test_more_tickets_than_fit_one_statement_are_found(fresh: Service) -> None:
    ids = [fresh.publish().id for _ in range(3)]
    many = [*range(10_000, 15_000), *ids]
    assert set(fresh.store.tickets.versions(many)) == set(ids)
    assert set(fresh.store.tickets.several(many)) == set(ids)
    assert fresh.store.tickets.versions([]) == {}


# Interrupted waits ------------------------------------------------------------------------------------------------


def away(_: object) -> Any:
    raise OperationalError("SELECT", {}, Exception("the server is gone"))


def test_unavailable_store_gets_503_at_the_end_of_the_wait(
    fresh: Service, hold: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(ids: object) -> Any:
        nonlocal looks
        looks += 1
        return away(ids)

    ticket = fresh.publish()
    monkeypatch.setattr(fresh.store.tickets, "versions", counted)
    answer = hold(ticket, "1.2").result(AT_ONCE)
    assert answer.status == 503
    assert answer.headers["retry-after"]
    assert 1 <= looks <= 14, "it is not asked all the time"


def test_wait_continues_when_the_store_is_back(fresh: Service, hold: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = fresh.publish()
    with monkeypatch.context() as patch:
        patch.setattr(fresh.store.tickets, "versions", away)
        held = hold(ticket, accept=JSON)
        eventually(lambda: watcher(fresh)._away, 5)
    fresh.claim(ticket)
    assert held.result(AT_ONCE).json["message"] == "Preparing"


def test_waiting_callers_are_answered_when_the_intake_stops(fresh: Service, hold: Holding) -> None:
    ticket = fresh.publish()
    held = [hold(ticket) for _ in range(3)]
    fresh.client.portal.call(watcher(fresh).close)  # type: ignore[union-attr]
    assert {each.result(AT_ONCE).status for each in held} == {200}
    began = time.monotonic()
    assert poll(fresh, ticket, "60").status == 200
    assert time.monotonic() - began < AT_ONCE


class Caller:
    """A caller's request, which a task can wait for without a server."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self.request = Request({"type": "http", "method": "GET", "headers": [], "query_string": b""}, self._receive)

    async def _receive(self) -> dict[str, str]:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    def wait(self, watcher: Watcher, ticket: Ticket, form: Format = Format.XML) -> asyncio.Task[Response]:
        return asyncio.create_task(watcher.answer(self.request, form, ticket, 60.0))


async def all_wait(watcher: Watcher, number_of_callers: int) -> None:
    while len(watcher) < number_of_callers:
        await asyncio.sleep(0)


def test_disconnected_caller_is_forgotten(fresh: Service) -> None:
    ticket = fresh.publish()

    async def wait_and_hang_up() -> None:
        each, caller = Watcher(fresh.store), Caller()
        waits = caller.wait(each, ticket)
        await all_wait(each, 1)
        caller.hung_up.set()
        with pytest.raises(ClientDisconnect):
            await waits
        assert len(each) == 0
        assert not each._groups
        each.close()

    asyncio.run(wait_and_hang_up())


def test_request_that_is_cancelled_does_not_get_an_answer(fresh: Service) -> None:
    """The server may cancel a request at the moment of a change."""
    ticket = fresh.publish()

    async def cancel(*, with_a_change: bool) -> None:
        each, caller = Watcher(fresh.store), Caller()
        waits = caller.wait(each, ticket)
        await all_wait(each, 1)
        if with_a_change:
            each.close()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert not each._groups
        each.close()

    asyncio.run(cancel(with_a_change=False))
    asyncio.run(cancel(with_a_change=True))


def test_change_does_not_disturb_what_follows_a_wait(fresh: Service) -> None:
    """A caller hangs up while others are woken: its task goes on, and nothing cancels it later."""
    ticket = fresh.publish()

    async def hang_up_and_go_on() -> None:
        each, callers, finished = Watcher(fresh.store), [Caller() for _ in range(2000)], asyncio.Event()

        async def wait_then_work(caller: Caller) -> str:
            try:
                await each.answer(caller.request, Format.XML, ticket, 60.0)
            except ClientDisconnect:
                await finished.wait()
                return "gone"
            return "answered"

        tasks = [asyncio.create_task(wait_then_work(caller)) for caller in callers]
        await all_wait(each, len(callers))
        fresh.claim(ticket)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for caller in callers:
            caller.hung_up.set()
        while len(each):
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        finished.set()
        assert set(await asyncio.gather(*tasks)) == {"gone", "answered"}
        each.close()

    asyncio.run(hang_up_and_go_on())


def test_callers_are_woken_in_slices(fresh: Service) -> None:
    """Thousands of answers do not make others wait. A waiting caller needs one task, the request's own."""
    tickets = [fresh.publish() for _ in range(3)]

    async def wait_and_count() -> None:
        each, callers = Watcher(fresh.store), [Caller() for _ in range(600)]
        before = len(asyncio.all_tasks())
        tasks = [caller.wait(each, tickets[number % 3]) for number, caller in enumerate(callers)]
        await all_wait(each, len(callers))
        assert len(asyncio.all_tasks()) <= before + len(callers) + 1
        for ticket in tickets:
            fresh.claim(ticket)
        at_once = most = 0
        while not all(task.done() for task in tasks):
            done = sum(task.done() for task in tasks)
            most, at_once = max(most, done - at_once), done
            await asyncio.sleep(0)
        assert 0 < most <= 2 * long_poll._WOKEN_AT_ONCE
        assert len({task.result().body for task in tasks}) == 3
        assert not each._groups
        each.close()

    asyncio.run(wait_and_count())


def test_stop_while_callers_are_woken_answers_all(fresh: Service) -> None:
    ticket = fresh.publish()

    async def stop_in_between() -> None:
        each, callers = Watcher(fresh.store), [Caller() for _ in range(300)]
        tasks = [caller.wait(each, ticket) for caller in callers]
        await all_wait(each, len(callers))
        fresh.claim(ticket)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in tasks)
        each.close()
        assert len(await asyncio.wait_for(asyncio.gather(*tasks), AT_ONCE)) == len(callers)
        assert not each._groups

    asyncio.run(stop_in_between())
