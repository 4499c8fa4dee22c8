"""Stored accounts, on each kind of database."""

from __future__ import annotations

from typing import Any

import pytest

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.fiql import parse
from publisher.core.listing import Listing, Page
from publisher.store import Store
from publisher.store.accounts import StoredAccount
from tests.records import add_ticket

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "demo"}
SEALED = b"\0sealed"


@pytest.fixture(autouse=True)
def _filled(store: Store) -> None:
    store.users.add("root", "x", administrator=True)
    store.users.add("anna", "x")


def add(store: Store, owner: str = "anna", name: str = "lab", **values: Any) -> StoredAccount:
    plain: dict[str, Any] = {"platform": "openstack", "fields": FIELDS, "sealed_secrets": SEALED}
    return store.accounts.add(owner=owner, name=name, **(plain | values))


def test_account_is_stored_unchanged(store: Store) -> None:
    made = add(store)
    assert (made.owner, made.name, made.platform) == ("anna", "lab", "openstack")
    assert (made.fields, made.sealed_secrets) == (FIELDS, SEALED)
    assert made.created == pytest.approx(made.modified, abs=1)
    assert store.accounts.get("anna", made.id) == made
    assert "sealed" not in repr(made)


def test_account_is_found_by_number_and_name(store: Store) -> None:
    made = add(store)
    other = add(store, "root")
    for wanted in ({"id": made.id}, {"name": "lab"}, {"id": made.id, "name": "lab"}):
        assert store.accounts.find("anna", **wanted) == made
    for wanted in ({"id": other.id}, {"name": "Lab"}, {"id": made.id, "name": "x"}, {"id": -1}):
        assert store.accounts.find("anna", **wanted) is None
    with pytest.raises(ValueError, match="neither"):
        store.accounts.find("anna")


def test_accounts_are_listed_by_user(store: Store) -> None:
    made = [add(store, name="lab"), add(store, name="prod"), add(store, "root", "lab")]
    assert store.accounts.list("anna") == made[:2]
    assert store.accounts.list() == made
    assert store.accounts.list("nobody") == []


def test_accounts_are_filtered_sorted_and_paged(store: Store) -> None:
    made = [add(store, name="lab"), add(store, name="prod"), add(store, name="a lab", platform="memory")]
    add(store, "root", "lab")
    assert store.accounts.page("anna", Listing()) == Page(3, made)
    assert store.accounts.page("anna", Listing(order_by="name", count=2)) == Page(3, [made[2], made[0]])
    found = store.accounts.page("anna", Listing(parse("targetPlatform.type==OpenStack;name==*lab"), count=1, offset=1))
    assert found == Page(1, [])
    assert store.accounts.page("anna", Listing(parse(f"dbId=={made[1].id}"))).items == [made[1]]
    assert store.accounts.page("anna", Listing(order_by="lastModified", descending=True)).total == 3
    assert store.accounts.page("anna", Listing(parse("created=lt=2020-01-01T00:00:00Z"))) == Page(0, [])


def test_update_changes_only_the_given_values(store: Store) -> None:
    made = add(store)
    changed = store.accounts.update("anna", made.id, fields={"login": "other", "keystoneVersion": "v3"})
    assert changed.fields == FIELDS | {"login": "other", "keystoneVersion": "v3"}
    assert (changed.name, changed.sealed_secrets, changed.created) == ("lab", SEALED, made.created)
    assert changed.modified >= made.modified
    renamed = store.accounts.update("anna", made.id, name="new", sealed_secrets=b"other")
    assert (renamed.name, renamed.sealed_secrets, renamed.fields) == ("new", b"other", changed.fields)
    assert store.accounts.get("anna", made.id) == renamed


def test_account_name_is_unique_for_each_user(store: Store) -> None:
    made = add(store)
    add(store, "root")
    with pytest.raises(Conflict, match="there is an account 'lab' already"):
        add(store)
    second = add(store, name="second")
    with pytest.raises(Conflict, match="'lab' already"):
        store.accounts.update("anna", second.id, name="lab")
    assert store.accounts.update("anna", made.id, name="lab").name == "lab", "its own name is no conflict"
    with pytest.raises(Conflict, match="no user 'nobody'"):
        add(store, "nobody")


@pytest.mark.parametrize("name", ["", " ", " lab", "lab ", "a\nb", "a\0b", "x" * 256])
def test_invalid_account_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^name: "):
        add(store, name=name)
    made = add(store)
    with pytest.raises(InvalidRequest, match=r"^name: "):
        store.accounts.update("anna", made.id, name=name)


def test_account_of_another_user_is_not_found(store: Store) -> None:
    made = add(store, "root")
    for id in (made.id, 999):
        for attempt in (store.accounts.get, store.accounts.update, store.accounts.remove):
            with pytest.raises(NotFound, match=f"^anna has no account {id}$"):
                attempt("anna", id)
    assert store.accounts.get("root", made.id) == made


def test_number_of_a_removed_account_is_not_reused(store: Store) -> None:
    made = add(store)
    store.accounts.remove("anna", made.id)
    assert store.accounts.list() == []
    assert add(store).id > made.id


def test_accounts_are_removed_with_their_user(store: Store) -> None:
    add(store)
    kept = add(store, "root")
    store.users.remove("anna")
    assert store.accounts.list() == [kept]


@pytest.mark.parametrize("account_id", [None, 3])
def test_ticket_keeps_the_number_of_its_account(store: Store, account_id: int | None) -> None:
    made = add_ticket(store, account_id=account_id)
    found = store.tickets.get(made.id)
    assert found is not None
    assert found.account_id == account_id
