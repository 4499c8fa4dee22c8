"""A ticket that is retried uses its stored account as it is now."""

from __future__ import annotations

from typing import Any

import pytest

from publisher.core.errors import Conflict
from publisher.core.ticket import State, Ticket
from publisher.platforms.platform import cloud_account
from publisher.store import Store
from publisher.store.accounts import StoredAccount
from publisher.store.database import reading, tickets
from tests.records import OWNER, add_owner, add_ticket, current, words

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "joe"}
TARGET = {"keystoneProject": "p", "displayName": "x"}


@pytest.fixture
def account(store: Store) -> StoredAccount:
    add_owner(store)
    return store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"mistyped")


def failed(store: Store, stored: StoredAccount, *, left: str | None = None, **values: Any) -> Ticket:
    """Return a failed ticket of the account. `left` is the id of an image that it may have left in the cloud."""
    plain = {
        "platform": "openstack",
        "account": stored.fields | {"name": stored.name},
        "sealed_secrets": stored.sealed_secrets,
        "target": TARGET,
        "account_id": stored.id,
    }
    ticket = add_ticket(store, **plain | values)
    claim = store.leases.claim(ticket.id, "w", 60)
    assert claim
    if left:
        store.leases.plan(claim, left)
    store.leases.region(claim, "RegionOne")
    store.leases.failed(claim, error="the login was rejected")
    return current(store, ticket)


def cloud_of(store: Store, ticket: Ticket) -> str:
    with reading(store.engine) as connection:
        return str(connection.execute(tickets.select().where(tickets.c.id == ticket.id)).one().cloud_account)


def test_retry_uses_a_corrected_password(store: Store, account: StoredAccount) -> None:
    ticket = failed(store, account, left="an-image")
    store.accounts.update(OWNER, account.id, sealed_secrets=b"right")
    again = store.tickets.retry(ticket.id)
    assert (again.state, again.sealed_secrets) == (State.QUEUED, b"right")
    assert again.account == FIELDS | {"name": "lab"}
    assert again.location is None
    assert words(store, ticket)[-1] == "Queued again at its owner's request, with the account 'lab' as it is now"
    assert [each.cloud_id for each in store.tickets.journal(ticket.id)] == ["an-image"], "the same cloud: it is adopted"


@pytest.mark.parametrize(
    "changes",
    [
        {"login": "anna"},
        {"keystoneUrl": "https://other.example.com:5000"},
        {"userDomain": "people"},
        {"glanceUrl": "https://glance.example.com"},
    ],
)
def test_retry_uses_a_corrected_account_if_nothing_was_left(
    store: Store, account: StoredAccount, changes: dict[str, str]
) -> None:
    ticket = failed(store, account)
    store.accounts.update(OWNER, account.id, name="corrected", fields=changes, sealed_secrets=b"right")
    again = store.tickets.retry(ticket.id)
    assert again.account == FIELDS | changes | {"name": "corrected"}
    assert again.sealed_secrets == b"right"
    assert cloud_of(store, again) == cloud_account("openstack", FIELDS | changes, TARGET), "its place is that of others"


@pytest.mark.parametrize(
    "changes", [{"login": "anna"}, {"userDomain": "people"}, {"glanceUrl": "https://g.example.com"}]
)
def test_retry_is_refused_if_something_is_left_in_another_cloud(
    store: Store, account: StoredAccount, changes: dict[str, str]
) -> None:
    ticket = failed(store, account, left="an-image")
    store.accounts.update(OWNER, account.id, fields=changes, sealed_secrets=b"right")
    with pytest.raises(Conflict, match="may have left something in the cloud, and its account 'lab' leads to another"):
        store.tickets.retry(ticket.id)
    assert current(store, ticket) == ticket, "with what it was signed in with there"


def test_retry_is_possible_after_the_orphan_was_removed(store: Store, account: StoredAccount) -> None:
    ticket = failed(store, account, left="an-image")
    store.accounts.update(OWNER, account.id, fields={"login": "anna"}, sealed_secrets=b"right")
    with store.sweeping.removing(ticket.uid, "an-image", -1.0, 60) as free:
        assert free
    assert store.tickets.retry(ticket.id).account["login"] == "anna"


def test_retry_after_a_deletion_of_the_account_uses_the_old_values(store: Store, account: StoredAccount) -> None:
    ticket = failed(store, account, left="an-image")
    store.accounts.remove(OWNER, account.id)
    again = store.tickets.retry(ticket.id)
    assert (again.account, again.sealed_secrets) == (ticket.account, b"mistyped")
    assert "its copy of the account, which was deleted" in words(store, ticket)[-1]


def test_retry_keeps_an_account_that_is_not_stored(store: Store, account: StoredAccount) -> None:
    ticket = failed(store, account, account_id=None, sealed_secrets=b"its own")
    assert store.tickets.retry(ticket.id).sealed_secrets == b"its own"
    assert words(store, ticket)[-1] == "Queued again at its owner's request"


@pytest.mark.parametrize(
    ("own", "changes", "secrets", "login"),
    [
        (["password"], {}, b"mistyped", "joe"),
        (["keystoneVersion"], {"login": "anna"}, b"right", "anna"),
        (["login"], {}, b"right", "joe"),
        (["login"], {"login": "anna"}, b"right", "joe"),
        (["login"], {"keystoneUrl": "https://other.example.com"}, b"mistyped", "joe"),
    ],
    ids=["its own password", "its own version", "its own login", "its own login stays", "for another cloud"],
)
def test_retry_keeps_the_elements_that_the_request_gave(
    store: Store, account: StoredAccount, own: list[str], changes: dict[str, str], secrets: bytes, login: str
) -> None:
    values: dict[str, Any] = {"account": FIELDS | {"keystoneVersion": "v2.0", "name": "lab"}, "own_elements": own}
    ticket = failed(store, account, **values)
    store.accounts.update(OWNER, account.id, fields=changes | {"keystoneVersion": "v3"}, sealed_secrets=b"right")
    again = store.tickets.retry(ticket.id)
    assert (again.sealed_secrets, again.account["login"]) == (secrets, login)
    kept = "keystoneVersion" in own or secrets == b"mistyped"
    assert again.account["keystoneVersion"] == ("v2.0" if kept else "v3")
    assert again.account["keystoneUrl"] == FIELDS["keystoneUrl"]
