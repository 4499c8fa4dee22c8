"""Sign-ins that are kept for the next tickets of an account."""

from __future__ import annotations

import pytest

from publisher.core.ticket import Account
from workers.clouds import base
from workers.clouds.base import SIGN_IN_SECONDS_MAX, KeptSignIns

ACCOUNT = Account("openstack", {"login": "joe", "keystoneUrl": "http://one"}, {"password": "hunter2"})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_sign_in_is_found_by_the_same_account() -> None:
    sign_ins = KeptSignIns[str]()
    sign_ins.keep(sign_ins.key(ACCOUNT, "project"), "token", 60)
    same = Account(ACCOUNT.platform, dict(reversed(ACCOUNT.fields.items())), dict(ACCOUNT.secrets))
    assert sign_ins.get(sign_ins.key(same, "project")) == "token"


@pytest.mark.parametrize(
    "other",
    [
        Account("openstack", ACCOUNT.fields, {"password": "hunter3"}),
        Account("openstack", ACCOUNT.fields, {"secret": "hunter2"}),
        Account("openstack", ACCOUNT.fields, {"applicationCredentialSecret": "hunter2"}),
        Account("openstack", ACCOUNT.fields, {"token": "hunter2"}),
        Account("openstack", ACCOUNT.fields | {"trustId": "4711"}, ACCOUNT.secrets),
        Account("openstack", ACCOUNT.fields | {"keystoneUrl": "http://two"}, ACCOUNT.secrets),
        Account("openstack", ACCOUNT.fields | {"caBundle": "another"}, ACCOUNT.secrets),
        Account("aws", ACCOUNT.fields, ACCOUNT.secrets),
    ],
)
def test_sign_in_is_not_found_by_another_account_or_secret(other: Account) -> None:
    sign_ins = KeptSignIns[str]()
    sign_ins.keep(sign_ins.key(ACCOUNT, "project"), "token", 60)
    assert sign_ins.get(sign_ins.key(other, "project")) is None
    assert sign_ins.get(sign_ins.key(ACCOUNT, "another project")) is None


def test_key_does_not_contain_the_secret_and_differs_in_each_process() -> None:
    key = KeptSignIns[str]().key(ACCOUNT)
    assert b"hunter2" not in key
    assert KeptSignIns[str]().key(ACCOUNT) != key


@pytest.mark.parametrize(("seconds", "at_most"), [(60, 60), (86400, SIGN_IN_SECONDS_MAX)])
def test_sign_in_expires(seconds: float, at_most: float) -> None:
    clock = Clock()
    sign_ins = KeptSignIns[str](clock)
    sign_ins.keep(b"key", "token", seconds)
    clock.now += at_most - 1
    assert sign_ins.get(b"key") == "token"
    clock.now += 1
    assert sign_ins.get(b"key") is None
    assert not sign_ins._kept, "an expired token stays in memory"


def test_sign_in_that_is_not_useful_any_more_replaces_an_older_one_by_none() -> None:
    sign_ins = KeptSignIns[str]()
    sign_ins.keep(b"key", "old", 60)
    sign_ins.keep(b"key", "expired", 0)
    assert sign_ins.get(b"key") is None


def test_oldest_sign_in_is_forgotten_if_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_SIGN_INS_MAX", 2)
    sign_ins = KeptSignIns[int]()
    for number in range(3):
        sign_ins.keep(str(number).encode(), number, 60)
    assert [sign_ins.get(str(number).encode()) for number in range(3)] == [None, 1, 2]
