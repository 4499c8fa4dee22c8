"""What keeps some callers waiting keeps no others: passwords that are hashed, and a store that cannot be written to."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest

from publisher.store import users
from publisher.store.tickets import Tickets
from publisher.web import auth
from tests.patience import PATIENCE
from tests.service import JSON, PASSWORDS, Answer, Service, basic, ticket_path, xml_body
from tests.stack import until
from tests.unit.console.conftest import HERE, browse

with warnings.catch_warnings():
    # It would rather have httpx2, a fork of the httpx that we have.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

FLAT = "users/root/appliances/4/pimages"
CALLERS = 60


@dataclass
class Gate:
    """Where passwords are hashed: whoever comes waits until it is opened."""

    opened: threading.Event = field(default_factory=threading.Event)
    hashed: list[str] = field(default_factory=list)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()

    def verify(stored: str | None, password: str) -> bool:
        made.hashed.append(password)
        assert made.opened.wait(60 * PATIENCE)
        return users.verify_password(stored, password)

    monkeypatch.setattr(auth, "verify_password", verify)
    yield made
    made.opened.set()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLERS + 10) as pool:
        yield pool


def answered(asked: list[Future[Answer]]) -> list[Answer]:
    return [each.result() for each in asked if each.done()]


def test_wrong_passwords_keep_nobody_waiting(fresh: Service, gate: Gate, callers: ThreadPoolExecutor) -> None:
    gate.opened.set()
    ticket = fresh.publish()
    status = f"{ticket_path(ticket)}/status"
    etag = fresh.get(status, login="alice").headers["etag"]
    gate.opened.clear()
    guesses = [callers.submit(fresh.get, FLAT, login=f"guest-{number}", password="wrong") for number in range(CALLERS)]
    # All places are taken, and whoever has none is told so, while not one password has been hashed to its end.
    until(lambda: len(answered(guesses)) >= CALLERS - 14, 60)
    for answer in answered(guesses):
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert answer.problem()
    assert sum(not each.done() for each in guesses) > 0
    # Meanwhile those who are known are answered as ever, and so is whoever waits for a change.
    for _ in range(20):
        assert fresh.get(status, login="alice").status == 200
        assert fresh.call("GET", "/healthz", login=None).status == 200
    waiting = callers.submit(fresh.get, f"{status}?wait=60", login="alice", headers={"If-None-Match": etag})
    fresh.claim(ticket)
    assert waiting.result(60).status == 200
    assert len(gate.hashed) == 3  # Alice's, and two at a time of the others'
    gate.opened.set()
    assert {each.result(60).status for each in guesses} == {401, 429}


def test_the_consoles_form_likewise(fresh: Service, gate: Gate, callers: ThreadPoolExecutor) -> None:
    client = TestClient(fresh.app, base_url=HERE, follow_redirects=False, raise_server_exceptions=False)

    def guess(number: int) -> int:
        form = urlencode({"login": f"guest-{number}", "password": "wrong"})
        headers = {"Origin": HERE, "Content-Type": "application/x-www-form-urlencoded"}
        return int(client.post("/console/sign-in", content=form, headers=headers).status_code)

    gate.opened.set()
    signed_in = browse(fresh, "alice")
    gate.opened.clear()
    with client:
        guesses = [callers.submit(guess, number) for number in range(CALLERS)]
        until(lambda: sum(each.done() for each in guesses) >= CALLERS - 14, 60)
        assert {each.result() for each in guesses if each.done()} == {429}
        assert signed_in.get("/publications").status == 200
        gate.opened.set()
        assert {each.result(60) for each in guesses} == {401, 429}


def test_who_knows_the_password_gets_in_among_those_who_guess(
    fresh: Service, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """From an address that has not failed, ahead of all who have."""
    guesses = [callers.submit(fresh.get, FLAT, login=f"guest-{number}", password="wrong") for number in range(CALLERS)]
    until(lambda: len(answered(guesses)) >= CALLERS - 14, 60)
    elsewhere = TestClient(fresh.app, client=("192.0.2.9", 50000))
    headers = {"Authorization": basic("alice", PASSWORDS["alice"]), "Accept": JSON}
    signed_in = callers.submit(elsewhere.get, "/api/users/alice", headers=headers)
    # It takes the place of one of those who wait.
    until(lambda: len(answered(guesses)) >= CALLERS - 13, 60)
    assert not signed_in.done()
    gate.opened.set()
    assert signed_in.result(60).status_code == 200
    assert gate.hashed.index(PASSWORDS["alice"]) <= 3  # those two that were being hashed, and one more by then


def test_a_remembered_password_is_not_told_by_a_full_house(
    start: Callable[..., Service], gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Who keeps all places taken gets no more guesses than who does not."""
    service = start(sign_in_failures_max=5)
    gate.opened.set()
    assert service.get(FLAT).status == 200
    gate.opened.clear()
    guesses = [
        callers.submit(service.get, FLAT, login=f"guest-{number}", password="wrong") for number in range(CALLERS)
    ]
    until(lambda: len(answered(guesses)) >= CALLERS - 14, 60)
    for number in range(5):
        assert service.get(FLAT, password=f"guess {number}").status == 429
    assert service.get(FLAT).status == 429
    (entry,) = [each for each in service.store.audit.latest() if each.action == "sign_in.limited"]
    assert entry.object == "users/root"
    gate.opened.set()


# A store that another process holds -------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_reads_go_on_while_nobody_can_write(
    start: Callable[..., Service], callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    # However slow the machine, no writer gives up before the reads below are done.
    monkeypatch.setattr("publisher.web.request._WAIT_SECONDS", 60.0 * PATIENCE)
    monkeypatch.setattr("publisher.store.engine._BUSY_SECONDS", 60 * PATIENCE)
    fresh = start()
    ticket = fresh.publish()
    signed_in = browse(fresh, "alice")
    entered: list[None] = []
    create = Tickets.create

    def counted(self: Tickets, *arguments: Any) -> object:
        entered.append(None)
        return create(self, *arguments)

    monkeypatch.setattr(Tickets, "create", counted)
    other = sqlite3.connect(fresh.settings.data_dir / "publisher.db", isolation_level=None)
    other.execute(begin)
    try:
        writers = [callers.submit(fresh.post, FLAT, xml_body()) for _ in range(CALLERS)]
        until(lambda: len(entered) >= 16, 60)
        for _ in range(20):
            assert fresh.get(f"{ticket_path(ticket)}/status", login="alice").status == 200
            assert fresh.call("GET", "/healthz", login=None).status == 200
        # That somebody is there is written down now and then; where it cannot be, the page comes all the same.
        monkeypatch.setattr("publisher.store.sessions._SEEN_SECONDS", 0.0)
        assert signed_in.get("/publications").status == 200
        assert not any(each.done() for each in writers)
        monkeypatch.setattr("publisher.web.request._WAIT_SECONDS", 0.1)
        given_up = fresh.post(FLAT, xml_body())
        assert (given_up.status, int(given_up.headers["retry-after"]) > 0) == (503, True)
    finally:
        other.close()
    assert {each.result(60 * PATIENCE).status for each in writers} == {201}
    assert fresh.post(FLAT, xml_body()).status == 201
