"""Limits of sign-ins and of requests, without HTTP."""

from __future__ import annotations

import threading

import pytest
from cryptography.fernet import Fernet

from publisher.core.errors import NotAuthenticated, TooMany
from publisher.core.vault import Vault
from publisher.store import Store, users
from publisher.store.database import Actor
from publisher.web import auth
from publisher.web.auth import Authenticator
from publisher.web.rate_limits import Requests, SignIns
from tests.service import basic
from tests.stack import until

HERE, THERE = "192.0.2.1", "192.0.2.2"


def limits(store: Store, *, login: int = 3, address: int = 0, seconds: int = 60) -> SignIns:
    return SignIns(store.audit, login_failures=login, address_failures=address, window_seconds=seconds)


def limited(sign_ins: SignIns, login: str, address: str) -> bool:
    try:
        sign_ins.check(login, address)
    except TooMany as error:
        return 1 <= error.retry_after_seconds <= 60
    return False


def test_a_login_is_limited_only_at_the_failing_address(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store)
    for _ in range(3):
        assert not limited(sign_ins, "alice", HERE)
        sign_ins.failed("alice", HERE)
    assert limited(sign_ins, "alice", HERE)
    assert not limited(sign_ins, "alice", THERE)
    assert not limited(sign_ins, "bob", HERE)


def test_a_limited_sign_in_is_audited_once(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store)
    for _ in range(3):
        sign_ins.failed("alice", HERE, door="console")
    (entry,) = sqlite_store.audit.latest()
    assert (entry.actor, entry.action, entry.object) == (
        Actor("(unknown)", "console", HERE), "sign_in.limited", "users/alice",
    )  # fmt: skip
    assert entry.detail == f"3 failures of this login from {HERE}"


def test_a_successful_sign_in_resets_the_count(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store)
    for _ in range(2):
        sign_ins.failed("alice", HERE)
        sign_ins.failed("alice", HERE)
        sign_ins.succeeded("alice", HERE)
    assert not limited(sign_ins, "alice", HERE)


def test_an_address_is_limited_for_all_logins(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store, login=0, address=3)
    for number in range(3):
        sign_ins.failed(f"login-{number}", HERE)
        # A successful sign-in in between must not reset the count.
        sign_ins.succeeded("mallory", HERE)
    assert limited(sign_ins, "another", HERE)
    assert not limited(sign_ins, "another", THERE)
    # The authenticator still accepts a user whose password it remembers.
    sign_ins.check_login("another", HERE)


@pytest.mark.long
def test_a_limit_ends_with_its_window(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store, seconds=4)
    for _ in range(3):
        sign_ins.failed("alice", HERE)
    assert limited(sign_ins, "alice", HERE)
    until(lambda: not limited(sign_ins, "alice", HERE), 5)


def test_zero_means_no_limit_of_sign_ins(sqlite_store: Store) -> None:
    sign_ins = limits(sqlite_store, login=0, address=0)
    for _ in range(500):
        sign_ins.failed("alice", HERE)
    assert not limited(sign_ins, "alice", HERE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", HERE, True),
        (HERE, THERE, False),
        ("", "", True),
    ],
)
def test_an_ipv6_network_of_64_bits_counts_as_one_address(
    sqlite_store: Store, one: str, other: str, same: bool
) -> None:
    sign_ins = limits(sqlite_store, login=1)
    sign_ins.failed("alice", one)
    assert limited(sign_ins, "alice", other) is same


@pytest.mark.long
def test_too_many_requests_are_refused_only_for_their_user() -> None:
    requests = Requests(0.5)
    for _ in range(5):
        requests.count("alice")

    def count_on() -> None:
        # The first request is refused, unless a new window of ten seconds has just begun.
        for _ in range(5):
            requests.count("alice")

    with pytest.raises(TooMany, match="too many requests") as refused:
        count_on()
    assert 1 <= refused.value.retry_after_seconds <= 10
    requests.count("bob")
    for _ in range(1000):
        Requests(0).count("alice")


# The authenticator ------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of hashed passwords, in a store where Alice's is `right`."""
    sqlite_store.users.add("alice", "right")
    seen: list[str] = []

    def verify(stored: str | None, password: str) -> bool:
        seen.append(password)
        return users.verify_password(stored, password)

    monkeypatch.setattr(auth, "verify_password", verify)
    return seen


def authenticator(store: Store, sign_ins: SignIns) -> Authenticator:
    return Authenticator(store, 60.0, Vault([Fernet.generate_key().decode()]), sign_ins)


def test_a_flood_is_not_hashed_beyond_the_limit(sqlite_store: Store, hashed: list[str]) -> None:
    made = authenticator(sqlite_store, limits(sqlite_store))
    raised: list[type[Exception]] = []

    def guess(number: int) -> None:
        try:
            made.user(basic("alice", f"guess {number}"), HERE)
        except (NotAuthenticated, TooMany) as error:
            raised.append(type(error))

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two are hashed at a time, so one more may have begun when the third failed. Refused callers count, too.
    assert len(hashed) <= 4
    assert sum(issubclass(each, TooMany) for each in raised) == 40 - len(hashed)


def test_guessing_does_not_reveal_a_remembered_password(sqlite_store: Store, hashed: list[str]) -> None:
    made = authenticator(sqlite_store, limits(sqlite_store))
    made.user(basic("alice", "right"), THERE)
    for number in range(3):
        with pytest.raises(NotAuthenticated):
            made.user(basic("alice", f"guess {number}"), HERE)
    with pytest.raises(TooMany):
        made.user(basic("alice", "right"), HERE)
    assert made.user(basic("alice", "right"), THERE).login == "alice"
    assert hashed.count("right") == 1


def test_a_remembered_password_works_while_others_fail(sqlite_store: Store, hashed: list[str]) -> None:
    made = authenticator(sqlite_store, limits(sqlite_store, address=3))
    made.user(basic("alice", "right"), HERE)
    for number in range(3):
        with pytest.raises(NotAuthenticated):
            made.user(basic(f"login-{number}", "guess"), HERE)
    with pytest.raises(TooMany):
        made.user(basic("another", "guess"), HERE)
    assert made.user(basic("alice", "right"), HERE).login == "alice"
