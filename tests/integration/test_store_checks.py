"""Checks that callers wait for, on each kind of database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from publisher.core.cloud_check import CHECK_SECONDS_MAX, CheckKind, CheckResult, Explored, Place
from publisher.core.errors import Reason, TooMany
from publisher.store import Actor, ClaimedCheck, NewCheck, Store, StoredAccount
from publisher.store.database import checks, reading, writing

pytestmark = pytest.mark.long

SEALED = b"\0sealed"
NEW = NewCheck(CheckKind.PREFLIGHT, "anna", "openstack", {"login": "demo"}, SEALED, {"displayName": "x"}, image_id=7)
SEEN = Explored.of(projects=[Place("8ac0", "demo")], regions=[Place("RegionOne", "RegionOne")])


@pytest.fixture(autouse=True)
def _filled(store: Store) -> None:
    store.users.add("anna", "x")


def account(store: Store) -> StoredAccount:
    fields = {"keystoneUrl": "https://cloud.example.com:5000", "login": "demo"}
    return store.accounts.add(owner="anna", name="lab", platform="openstack", fields=fields, sealed_secrets=SEALED)


def claimed(store: Store, new: NewCheck = NEW) -> ClaimedCheck:
    found = store.checks.claim(store.checks.add(new))
    assert found is not None
    return found


def rows(store: Store) -> list[Any]:
    with reading(store.engine) as connection:
        return list(connection.execute(select(checks).order_by(checks.c.id)))


def age(store: Store, seconds: float) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(checks).values(created=checks.c.created - seconds))


def test_a_check_is_claimed_once_and_unchanged(store: Store) -> None:
    id = store.checks.add(NEW)
    found = store.checks.claim(id)
    assert found is not None
    assert (found.id, found.check) == (id, NEW)
    assert 0 <= found.age_seconds < CHECK_SECONDS_MAX
    assert store.checks.claim(id) is None
    assert store.checks.claim(id + 1) is None
    assert "sealed" not in repr(found)


@pytest.mark.parametrize(
    "result",
    [
        CheckResult(True, "works", explored=SEEN),
        CheckResult(False, "displayName: is taken", "displayName", Reason.REQUEST),
        CheckResult(False, "does not answer", reason=Reason.CONNECTION, transient=True),
    ],
)
def test_a_result_is_read_unchanged_and_the_secrets_are_erased(store: Store, result: CheckResult) -> None:
    check = claimed(store)
    assert store.checks.results([check.id]) == {}
    store.checks.finish(check, result)
    assert store.checks.results([check.id, check.id + 1]) == {check.id: result}
    (row,) = rows(store)
    assert row.sealed_secrets is None


def test_nobody_claims_a_check_that_nobody_waits_for(store: Store) -> None:
    old, abandoned = store.checks.add(NEW), 0
    age(store, CHECK_SECONDS_MAX + 1)
    abandoned = store.checks.add(NEW)
    store.checks.abandon(abandoned)
    assert [store.checks.claim(id) for id in (old, abandoned)] == [None, None]


def test_result_of_an_abandoned_check_is_dropped(store: Store) -> None:
    check = claimed(store)
    store.checks.abandon(check.id)
    store.checks.finish(check, CheckResult(True, "works"))
    assert rows(store) == []


def test_a_result_is_not_abandoned(store: Store) -> None:
    check = claimed(store)
    store.checks.finish(check, CheckResult(True, "works"))
    store.checks.abandon(check.id)
    assert list(store.checks.results([check.id])) == [check.id]


def test_a_user_waits_for_four_checks_at_most(store: Store) -> None:
    store.users.add("ben", "x")
    ids = [store.checks.add(NEW) for _ in range(4)]
    with pytest.raises(TooMany, match="anna waits for 4 checks already"):
        store.checks.add(NEW)
    store.checks.add(replace(NEW, owner="ben"))
    check = store.checks.claim(ids[0])
    assert check is not None
    store.checks.finish(check, CheckResult(True, "works"))
    store.checks.add(NEW)


def test_old_checks_are_purged_and_their_secrets_earlier(store: Store) -> None:
    done = claimed(store)
    store.checks.finish(done, CheckResult(True, "works"))
    age(store, 3700)
    killed = claimed(store)
    age(store, CHECK_SECONDS_MAX + 1)
    fresh = store.checks.add(NEW)
    store.checks.purge()
    assert [(row.id, row.sealed_secrets) for row in rows(store)] == [(killed.id, None), (fresh, SEALED)]


def test_an_account_keeps_what_its_test_found_until_it_is_changed(store: Store) -> None:
    tested = account(store)
    assert tested.explored is None
    new = NewCheck(CheckKind.ACCOUNT, "anna", "openstack", tested.fields, SEALED, {}, account_id=tested.id)
    store.checks.finish(claimed(store, new), CheckResult(True, "works", explored=SEEN))
    found = store.accounts.get("anna", tested.id)
    assert Explored.from_json(found.explored or {}) == SEEN
    assert store.accounts.update("anna", tested.id, name="other").explored is not None
    assert store.accounts.update("anna", tested.id, fields={"login": "joe"}).explored is None


def test_an_account_that_changed_in_the_meantime_does_not_keep_it(store: Store) -> None:
    tested = account(store)
    new = NewCheck(CheckKind.ACCOUNT, "anna", "openstack", tested.fields, SEALED, {}, account_id=tested.id)
    check = claimed(store, new)
    store.accounts.update("anna", tested.id, sealed_secrets=b"new")
    store.checks.finish(check, CheckResult(True, "works", explored=SEEN))
    assert store.accounts.get("anna", tested.id).explored is None


def test_a_test_of_an_account_is_audited(store: Store) -> None:
    tested = account(store)
    new = NewCheck(CheckKind.ACCOUNT, "anna", "openstack", tested.fields, SEALED, {}, account_id=tested.id)
    store.acting(Actor("anna", "api")).checks.add(new)
    (entry,) = store.audit.latest(1)
    assert (entry.action, entry.object) == ("account.test", f"users/anna/accounts/{tested.id}")
