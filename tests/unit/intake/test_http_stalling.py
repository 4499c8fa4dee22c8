"""Password hashing and a locked store delay some callers, but must not delay the others."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest

from publisher.store import users
from publisher.web import auth
from publisher.web.threads import asking_to_write
from tests.patience import PATIENCE
from tests.service import JSON, PASSWORDS, Answer, Service, basic, ticket_path, xml_body
from tests.stack import until
from tests.unit.console.conftest import HERE, browse

with warnings.catch_warnings():
    # Starlette warns that it prefers httpx2, a fork of the httpx that we use.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

FLAT = "users/root/appliances/4/pimages"
CALLERS = 60


@dataclass
class Gate:
    """Holds up all password hashing until it is opened."""

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


@pytest.mark.long
def test_wrong_passwords_do_not_delay_known_callers(fresh: Service, gate: Gate, callers: ThreadPoolExecutor) -> None:
    gate.opened.set()
    ticket = fresh.publish()
    status = f"{ticket_path(ticket)}/status"
    etag = fresh.get(status, login="alice").headers["etag"]
    gate.opened.clear()
    guesses = [callers.submit(fresh.get, FLAT, login=f"guest-{number}", password="wrong") for number in range(CALLERS)]
    # All places are taken and all other callers are refused, although no password check has finished yet.
    until(lambda: len(answered(guesses)) >= CALLERS - 14, 60)
    for answer in answered(guesses):
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert answer.problem()
    assert sum(not each.done() for each in guesses) > 0
    # Meanwhile known callers are answered as usual, and so is a long poll.
    for _ in range(20):
        assert fresh.get(status, login="alice").status == 200
        assert fresh.call("GET", "/healthz", login=None).status == 200
    waiting = callers.submit(fresh.get, f"{status}?wait=60", login="alice", headers={"If-None-Match": etag})
    fresh.claim(ticket)
    assert waiting.result(60).status == 200
    assert len(gate.hashed) == 3  # Alice's, and two of the guesses at a time
    gate.opened.set()
    assert {each.result(60).status for each in guesses} == {401, 429}


@pytest.mark.long
def test_wrong_passwords_in_the_form_do_not_delay_the_console(
    fresh: Service, gate: Gate, callers: ThreadPoolExecutor
) -> None:
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


@pytest.mark.long
def test_right_password_goes_ahead_of_guesses(fresh: Service, gate: Gate, callers: ThreadPoolExecutor) -> None:
    """An address without failures goes ahead of all addresses that have failed."""
    guesses = [callers.submit(fresh.get, FLAT, login=f"guest-{number}", password="wrong") for number in range(CALLERS)]
    until(lambda: len(answered(guesses)) >= CALLERS - 14, 60)
    elsewhere = TestClient(fresh.app, client=("192.0.2.9", 50000))
    headers = {"Authorization": basic("alice", PASSWORDS["alice"]), "Accept": JSON}
    signed_in = callers.submit(elsewhere.get, "/api/users/alice", headers=headers)
    # It takes the place of a waiting guess.
    until(lambda: len(answered(guesses)) >= CALLERS - 13, 60)
    assert not signed_in.done()
    gate.opened.set()
    assert signed_in.result(60).status_code == 200
    assert gate.hashed.index(PASSWORDS["alice"]) <= 3  # two were already being hashed, and one more may have begun


@pytest.mark.long
def test_cached_password_is_not_revealed_while_all_places_are_taken(
    start: Callable[..., Service], gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """A caller that keeps all places taken gets no additional guesses."""
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


# A store that another process has locked --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_reads_continue_while_the_store_is_locked(
    start: Callable[..., Service], callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    # Even on a slow machine, no writer may give up before the reads below are done.
    monkeypatch.setattr("publisher.web.threads.asking_to_write._wait_seconds", 60.0 * PATIENCE)
    monkeypatch.setattr("publisher.store.database._BUSY_SECONDS", 60 * PATIENCE)
    fresh = start()
    ticket = fresh.publish()
    signed_in = browse(fresh, "alice")
    other = sqlite3.connect(fresh.settings.data_dir / "publisher.db", isolation_level=None)
    other.execute(begin)
    try:
        writers = [callers.submit(fresh.post, FLAT, xml_body()) for _ in range(CALLERS)]
        until(lambda: len(asking_to_write) >= 16, 60)
        for _ in range(20):
            assert fresh.get(f"{ticket_path(ticket)}/status", login="alice").status == 200
            assert fresh.call("GET", "/healthz", login=None).status == 200
        # The console records now and then that a user is active. If that fails, the page must still appear.
        monkeypatch.setattr("publisher.store.sessions._SEEN_SECONDS", 0.0)
        assert signed_in.get("/publications").status == 200
        assert not any(each.done() for each in writers)
        monkeypatch.setattr("publisher.web.threads.asking_to_write._wait_seconds", 0.1)
        given_up = fresh.post(FLAT, xml_body())
        assert (given_up.status, int(given_up.headers["retry-after"]) > 0) == (503, True)
    finally:
        other.close()
    assert {each.result(60 * PATIENCE).status for each in writers} == {201}
    assert fresh.post(FLAT, xml_body()).status == 201
