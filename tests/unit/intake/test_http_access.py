"""Logins: which are accepted, and how long they are cached. (For permissions, see test_http_contract.py.)"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from publisher.store import users
from publisher.web import auth
from tests.service import PASSWORDS, Service, basic
from tests.unit.intake.contract import CONTRACT, Belongings, Row

NOBODY = "nobody"


every_row = pytest.mark.parametrize("row", CONTRACT, ids=str)


@pytest.fixture(scope="module")
def readable(service: Service) -> Belongings:
    """Objects of a user with a non-ASCII name, to be read only."""
    return Belongings.make(service, "åsa")


@pytest.mark.long
@every_row
def test_non_ascii_owner_is_percent_encoded_in_uris(row: Row, service: Service, readable: Belongings) -> None:
    for login in ("åsa", "root"):
        is_read = row.method == "GET" and row.root != "webhook"
        belongings = readable if is_read else Belongings.make(service, "åsa", row.state, row.image)
        answer = belongings.ask(row, login)
        assert answer.status == row.status
        assert (b"users/%C3%A5sa/" in answer.body) == (row.root not in ("", "roles"))


@pytest.mark.parametrize(
    ("login", "password"),
    [
        (None, None),
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", PASSWORDS["alice"] + "\0"),
        ("alice", PASSWORDS["alice"].upper()),
        (NOBODY, "wrong"),
        (NOBODY, PASSWORDS["alice"]),
        ("", ""),
        ("ali\0ce", "wrong"),
        ("alice ", PASSWORDS["alice"]),
        ("ALICE", PASSWORDS["alice"]),
    ],
)
def test_invalid_login_gets_401(service: Service, login: str | None, password: str | None) -> None:
    answer = service.get("users/alice/appliances/14/pimages", login=login, password=password)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith('Basic realm="')
    assert answer.problem()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic åäö",
        "Basic YWxpY2U=",  # no colon
        "Basic /////w==",  # not UTF-8
        "Basic " + "A" * 100_000,
        "Bearer " + basic("alice", PASSWORDS["alice"]).split()[1],
        basic("alice", PASSWORDS["alice"]).split()[1],
        "Digest username=alice",
    ],
)
def test_malformed_authorization_gets_401(service: Service, header: str) -> None:
    answer = service.get("users/alice/appliances/14/pimages", login=None, headers={"Authorization": header})
    assert answer.status == 401
    assert "www-authenticate" in answer.headers
    assert answer.problem()


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "Basic   "])
def test_authorization_scheme_ignores_case(service: Service, scheme: str) -> None:
    credentials = basic("alice", PASSWORDS["alice"]).split()[1]
    headers = {"Authorization": f"{scheme} {credentials}"}
    assert service.get("users/alice/appliances/14/pimages", login=None, headers=headers).status == 200


def test_password_may_contain_colons_and_non_ascii(fresh: Service) -> None:
    fresh.store.users.set_password("alice", "å:b::𝄞")
    assert fresh.get("users/alice/appliances/14/pimages", login="alice", password="å:b::𝄞").status == 200


def test_failed_login_is_reported_before_other_errors(service: Service) -> None:
    answer = service.post(
        "users/alice/appliances/nine/pimages", "<", login=None, accept="image/png", content_type="x/y"
    )
    assert answer.status == 401


def test_status_needs_no_login(service: Service) -> None:
    for options in ({"login": None}, {"login": "alice", "password": "wrong"}):
        assert service.get("status", **options).status == 200


# The cache of verified passwords ----------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were hashed for verification, in order."""
    seen: list[str] = []

    def count(stored_hash: str | None, password: str) -> bool:
        seen.append(password)
        return users.verify_password(stored_hash, password)

    monkeypatch.setattr(auth, "verify_password", count)
    return seen


class TestPasswordCache:
    path = "users/alice/appliances/14/pimages"

    def test_a_password_is_hashed_once(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(3):
            assert fresh.get(self.path, login="alice").status == 200
        assert verified == [PASSWORDS["alice"]]

    def test_a_wrong_password_is_hashed_each_time(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(2):
            assert fresh.get(self.path, login="alice", password="wrong").status == 401
        assert verified == ["wrong", "wrong"]

    def test_an_unknown_login_costs_as_much_as_a_wrong_password(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(2):
            assert fresh.get(self.path, login=NOBODY, password="wrong").status == 401
        assert verified == ["wrong", "wrong"]

    def test_changed_password_takes_effect_at_once(self, fresh: Service, verified: list[str]) -> None:
        old = PASSWORDS["alice"]
        assert fresh.get(self.path, login="alice", password=old).status == 200
        fresh.store.users.set_password("alice", "new")
        assert fresh.get(self.path, login="alice", password=old).status == 401
        assert fresh.get(self.path, login="alice", password="new").status == 200
        fresh.store.users.set_password("alice", old)
        assert fresh.get(self.path, login="alice", password="new").status == 401
        assert fresh.get(self.path, login="alice", password=old).status == 200

    def test_password_of_another_user_is_refused(self, fresh: Service) -> None:
        assert fresh.get(self.path, login="alice").status == 200
        assert fresh.get(self.path, login="bob", password=PASSWORDS["alice"]).status == 401

    def test_removed_user_is_refused_at_once(self, fresh: Service) -> None:
        path = "users/carol/appliances/14/images/21/pimages/1"
        assert fresh.get(path, login="carol").status == 404
        fresh.store.users.remove("carol")
        assert fresh.get(path, login="carol").status == 401

    def test_password_in_use_is_not_hashed_again(
        self, fresh: Service, verified: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: now))
        for idle, hashed in [(0.0, 1), (0.9, 1), (0.9, 1), (1.1, 2)]:
            now += idle * fresh.settings.credential_cache_seconds
            assert fresh.get(self.path, login="alice").status == 200
            assert len(verified) == hashed

    def test_password_is_hashed_again_after_the_cache_expires(
        self, start: Callable[..., Service], verified: list[str]
    ) -> None:
        service = start(credential_cache_seconds=0.0)
        for _ in range(2):
            assert service.get(self.path, login="alice").status == 200
        assert len(verified) == 2
