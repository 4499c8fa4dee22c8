"""Limits that answer 429: too many failed sign-ins, too many requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial

import pytest

from publisher.core.settings import Settings
from tests.service import JSON, PASSWORDS, XML, Answer, Service, ticket_path
from tests.unit.intake.contract import make_key
from tests.unit.intake.test_http_apikeys import ask

PATH = "users/alice/accounts"


@pytest.fixture
def limiting(start: Callable[..., Service]) -> Service:
    """An intake with the default limits."""
    return start(
        **{
            each.name: each.default
            for each in fields(Settings)
            if "sign_in_failures" in each.name or "requests_per_second" in each.name
        }
    )


def refused(answer: Answer) -> str:
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    return answer.problem()


def until_refused(ask: Callable[[], Answer]) -> Answer:
    """Repeat a request and return the first 429. While time passes, one or two more requests may be allowed."""
    return next(answer for answer in (ask() for _ in range(100)) if answer.status == 429)


@pytest.mark.parametrize("accept", [JSON, XML])
def test_failed_sign_ins_of_a_login_are_limited(limiting: Service, accept: str) -> None:
    for _ in range(10):
        answer = limiting.get(PATH, login="alice", password="wrong", accept=accept)
        assert answer.status == 401
    said = refused(limiting.get(PATH, login="alice", password="wrong", accept=accept))
    assert said == "too many sign-ins have failed; wait, then try again"
    # The right password is refused too, because it could be a guess. Other users can sign in.
    refused(limiting.get(PATH, login="alice", accept=accept))
    assert limiting.get("users/bob/accounts", login="bob").status == 200
    (entry,) = limiting.store.audit.latest()
    assert (entry.action, entry.object, entry.actor.address) == ("sign_in.limited", "users/alice", "testclient")
    assert entry.actor.login == "(unknown)", "it is no deed of that user"


def test_unknown_login_is_limited_like_any_other(limiting: Service) -> None:
    for _ in range(10):
        assert limiting.get(PATH, login="nobody", password="wrong").status == 401
    refused(limiting.get(PATH, login="nobody", password="wrong"))


def test_successful_sign_ins_are_not_counted(limiting: Service) -> None:
    for _ in range(30):
        assert limiting.get(PATH, login="alice").status == 200


def test_signed_request_passes_while_the_users_sign_ins_are_limited(limiting: Service) -> None:
    key = make_key(limiting, "alice")
    for _ in range(11):
        refusal = limiting.get(PATH, login="alice", password="wrong")
    refused(refusal)
    assert ask(limiting, f"{PATH}?apiKey={key.public}", key) == 200


def test_a_password_is_hashed_again_after_it_was_set(fresh: Service) -> None:
    """The remembered hash does not match then, which is found among the questions of several requests."""
    path = f"{ticket_path(fresh.publish())}/status"
    assert fresh.get(path, login="alice").status == 200
    fresh.store.users.set_password("alice", PASSWORDS["alice"])
    assert fresh.get(path, login="alice").status == 200
    fresh.store.users.set_password("alice", "another password")
    assert fresh.get(path, login="alice").status == 401
    assert fresh.get(path, login="alice", password="another password").status == 200


def test_requests_of_a_user_are_limited(start: Callable[..., Service]) -> None:
    service = start(user_requests_per_second=1.0)
    path = f"{ticket_path(service.publish())}/status"
    for _ in range(9):
        assert service.get(path, login="alice").status == 200
    answer = until_refused(lambda: service.get(path, login="alice"))
    assert refused(answer) == "too many requests; wait, then try again"
    # A request without a login does not count for the user.
    assert service.get("status", login=None).status == 200
    assert service.get("users/bob/accounts", login="bob").status == 200


def test_requests_from_an_address_are_limited(start: Callable[..., Service]) -> None:
    service = start(address_requests_per_second=1.0)
    for _ in range(10):
        assert service.get("status", login=None).status == 200
    for path in ("/docs", "status", PATH):
        refused(until_refused(partial(service.get, path, login=None, accept=JSON)))


@pytest.mark.long
def test_requests_are_unlimited_by_default(limiting: Service) -> None:
    for _ in range(300):
        assert limiting.get("status", login=None).status == 200
    for _ in range(100):
        assert limiting.get(PATH, login="alice").status == 200
