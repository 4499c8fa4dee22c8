"""429: too many sign-ins that failed, too many requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial

import pytest

from publisher.core.settings import Settings
from tests.service import JSON, XML, Answer, Service, ticket_path
from tests.unit.intake.contract import make_key
from tests.unit.intake.test_http_apikeys import ask

PATH = "users/alice/accounts"


@pytest.fixture
def limiting(start: Callable[..., Service]) -> Service:
    """With the limits that there are by default."""
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
    """The first answer that is 429, of requests in a row: one or two more may have come through as seconds went by."""
    return next(answer for answer in (ask() for _ in range(100)) if answer.status == 429)


@pytest.mark.parametrize("accept", [JSON, XML])
def test_sign_ins_that_fail(limiting: Service, accept: str) -> None:
    for _ in range(10):
        answer = limiting.get(PATH, login="alice", password="wrong", accept=accept)
        assert answer.status == 401
    said = refused(limiting.get(PATH, login="alice", password="wrong", accept=accept))
    assert said == "too many sign-ins have failed; wait, then try again"
    # The right one does not come through either: it could be a guess. Others do.
    refused(limiting.get(PATH, login="alice", accept=accept))
    assert limiting.get("users/bob/accounts", login="bob").status == 200
    (entry,) = limiting.store.audit.latest()
    assert (entry.action, entry.object, entry.actor.address) == ("sign_in.limited", "users/alice", "testclient")
    assert entry.actor.login == "(unknown)", "it is no deed of that user"


def test_a_login_that_does_not_exist_is_limited_like_any(limiting: Service) -> None:
    for _ in range(10):
        assert limiting.get(PATH, login="nobody", password="wrong").status == 401
    refused(limiting.get(PATH, login="nobody", password="wrong"))


def test_sign_ins_that_succeed_do_not_count(limiting: Service) -> None:
    for _ in range(30):
        assert limiting.get(PATH, login="alice").status == 200


def test_a_signature_is_not_limited_with_its_users_password(limiting: Service) -> None:
    key = make_key(limiting, "alice")
    for _ in range(11):
        refusal = limiting.get(PATH, login="alice", password="wrong")
    refused(refusal)
    assert ask(limiting, f"{PATH}?apiKey={key.public}", key) == 200


def test_requests_of_a_user(start: Callable[..., Service]) -> None:
    service = start(user_requests_per_second=1.0)
    path = f"{ticket_path(service.publish())}/status"
    for _ in range(9):
        assert service.get(path, login="alice").status == 200
    answer = until_refused(lambda: service.get(path, login="alice"))
    assert refused(answer) == "too many requests; wait, then try again"
    # What has no login is not the user's.
    assert service.get("status", login=None).status == 200
    assert service.get("users/bob/accounts", login="bob").status == 200


def test_requests_from_an_address(start: Callable[..., Service]) -> None:
    service = start(address_requests_per_second=1.0)
    for _ in range(10):
        assert service.get("status", login=None).status == 200
    for path in ("/docs", "status", PATH):
        refused(until_refused(partial(service.get, path, login=None, accept=JSON)))


def test_none_are_limited_by_default(limiting: Service) -> None:
    for _ in range(300):
        assert limiting.get("status", login=None).status == 200
    for _ in range(100):
        assert limiting.get(PATH, login="alice").status == 200
