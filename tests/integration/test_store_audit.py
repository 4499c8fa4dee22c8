"""The audit log gets an entry for each change, in the change's own transaction. Entries are never altered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from publisher.core.errors import Conflict, NotFound
from publisher.core.image import Digests
from publisher.store import Store
from publisher.store.database import Actor, writing
from publisher.store.fleet import Member
from publisher.store.new_tickets import IdempotencyKey, KeyTaken
from publisher.store.users import ENTITLEMENTS
from tests.records import APPLIANCE, OWNER, add_image_row, add_owner, add_ticket

ALICE = Actor("alice", "api", "192.0.2.7", "r-1")
DIGESTS = Digests(1000, "5" * 32, "2" * 64, "f" * 128)
IMAGES = f"users/{OWNER}/appliances/{APPLIANCE}/images"


def noted(store: Store) -> list[tuple[str, str, str]]:
    """Return action, object and detail of all entries, oldest first. All must be Alice's."""
    entries = store.audit.latest(1000)
    assert {each.actor for each in entries} <= {ALICE}
    return [(each.action, each.object, each.detail) for each in reversed(entries)]


def test_changes_of_users_roles_keys_and_accounts_are_logged(store: Store) -> None:
    add_owner(store)
    by = store.acting(ALICE)
    account = by.accounts.add(owner=OWNER, name="lab", platform="openstack", fields={}, sealed_secrets=b"-")
    by.accounts.update(OWNER, account.id, name="new", fields={"login": "x"}, sealed_secrets=b"+")
    by.accounts.remove(OWNER, account.id)
    key = by.api_keys.add(owner=OWNER, name="ci", description="", public_key="ab12", sealed_secret=b"-")
    by.api_keys.remove(OWNER, key.id)
    by.roles.add("publishers", entitlements=frozenset(ENTITLEMENTS[:1]))
    by.users.add("bob", "secret", entitlements=frozenset(), roles=frozenset({"publishers"}))
    by.users.set_password("bob", "another")
    by.users.change_roles("bob", remove=frozenset({"publishers"}))
    by.users.remove("bob")
    by.roles.remove("publishers")
    by.appliances.add(OWNER, id=9)
    by.appliances.remove(OWNER, 9)

    user = f"users/{OWNER}"
    assert noted(store) == [
        ("account.create", f"{user}/accounts/1", "openstack, 'lab'"),
        ("account.change", f"{user}/accounts/1", "login, name, secrets"),
        ("account.delete", f"{user}/accounts/1", ""),
        ("key.create", f"{user}/apikeys/1", "'ci', ab12"),
        ("key.delete", f"{user}/apikeys/1", ""),
        ("role.create", "roles/publishers", ENTITLEMENTS[0]),
        ("user.create", "users/bob", "may: publishers"),
        ("user.password", "users/bob", ""),
        ("user.roles", "users/bob", "-publishers"),
        ("user.delete", "users/bob", ""),
        ("role.delete", "roles/publishers", ""),
        ("appliance.create", f"{user}/appliances/9", "'appliance-9'"),
        ("appliance.delete", f"{user}/appliances/9", ""),
    ]


def test_changes_of_images_and_tickets_are_logged(store: Store) -> None:
    add_owner(store)
    by = store.acting(ALICE)
    add_image_row(by, DIGESTS, "disk.raw")
    one, other = (add_ticket(by) for _ in range(2))
    by.tickets.request_cancel(one.id)
    by.tickets.retry(one.id)
    for each in (one, other):
        by.tickets.request_cancel(each.id)
    by.tickets.remove(one.id)
    by.tickets.remove_all(OWNER, APPLIANCE)
    fetched = by.registrations.begin(
        owner=OWNER, appliance_id=APPLIANCE, name="far", wanted_format=None, source="https://images.example.com/a"
    )
    by.registrations.cancel(OWNER, APPLIANCE, fetched.id)
    by.registrations.again(OWNER, APPLIANCE, fetched.id)
    by.registrations.cancel(OWNER, APPLIANCE, fetched.id)
    by.images.delete(OWNER, APPLIANCE)
    worker = Member("w-1", "host", 1, "publisher@host", "0", 4)
    by.fleet.beat(worker)
    by.fleet.ask_to_drain(worker.name)

    ticket, image = f"{IMAGES}/1/pimages", f"{IMAGES}/{fetched.id}"
    assert noted(store) == [
        ("image.create", f"{IMAGES}/1", "'disk', raw"),
        ("ticket.create", f"{ticket}/1", "to memory, as 'an image'"),
        ("ticket.create", f"{ticket}/2", "to memory, as 'an image'"),
        ("ticket.cancel", f"{ticket}/1", ""),
        ("ticket.retry", f"{ticket}/1", ""),
        ("ticket.cancel", f"{ticket}/1", ""),
        ("ticket.cancel", f"{ticket}/2", ""),
        ("ticket.delete", f"{ticket}/1", ""),
        ("ticket.delete", f"{ticket}/2", ""),
        ("image.create", image, "'far', fetched"),
        ("image.cancel", image, ""),
        ("image.generate", image, ""),
        ("image.cancel", image, ""),
        ("image.delete", f"{IMAGES}/1", ""),
        ("image.delete", image, ""),
        ("worker.drain", "workers/w-1", ""),
    ]


def test_refused_change_is_not_logged(store: Store) -> None:
    ticket = add_ticket(store)
    by = store.acting(ALICE)
    refused: list[Callable[[], object]] = [
        lambda: by.tickets.retry(ticket.id),
        lambda: by.tickets.remove(ticket.id),
        lambda: by.tickets.remove_all(OWNER, APPLIANCE),
        lambda: by.tickets.request_cancel(99),
        lambda: by.images.delete(OWNER, APPLIANCE),
        lambda: by.users.remove(OWNER),
        lambda: by.users.set_password("nobody", "x"),
        lambda: by.accounts.remove(OWNER, 99),
        lambda: by.api_keys.remove(OWNER, 99),
        lambda: by.appliances.remove(OWNER, APPLIANCE),
        lambda: by.registrations.cancel(OWNER, APPLIANCE, 1),
        lambda: by.fleet.ask_to_drain("nobody"),
    ]
    for change in refused:
        with pytest.raises((Conflict, NotFound)):
            change()
    assert noted(store) == []


def test_ticket_that_is_not_created_is_not_logged(store: Store) -> None:
    by = store.acting(ALICE)
    key = IdempotencyKey(OWNER, "key", ("fingerprint",), 60.0)
    add_ticket(store, idempotency_key=key)
    with pytest.raises(KeyTaken):
        add_ticket(by, idempotency_key=key)
    assert noted(store) == []


def test_repeated_cancel_is_logged_once(store: Store) -> None:
    ticket = add_ticket(store)
    assert store.leases.claim(ticket.id, "worker", 60)
    by = store.acting(ALICE)
    by.tickets.request_cancel(ticket.id)
    by.tickets.request_cancel(ticket.id)
    assert [action for action, _, _ in noted(store)] == ["ticket.cancel"]


def test_lease_changes_and_changes_without_an_actor_are_not_logged(store: Store) -> None:
    by = store.acting(ALICE)
    ticket = add_ticket(store)
    claim = by.leases.claim(ticket.id, "worker", 60)
    assert claim
    by.leases.failed(claim, error="no")
    store.tickets.retry(ticket.id)
    assert noted(store) == []


def test_entries_cannot_be_changed_or_removed(store: Store) -> None:
    store.audit.add(ALICE, "ticket.cancel", f"{IMAGES}/1/pimages/1")
    statements = ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"]
    if store.engine.dialect.name == "postgresql":
        statements.append("TRUNCATE audit")
    else:
        (entry,) = store.audit.latest()
        assert entry.id == 1
        into = "INTO audit (id, at, actor, action, object, detail, door) VALUES (1, 1.0, 'x', 'x', 'x', 'x', 'api')"
        statements += [f"INSERT OR REPLACE {into}", f"REPLACE {into}", "UPDATE OR REPLACE audit SET id = 1"]
    for statement in statements:
        with pytest.raises(DBAPIError, match="only ever added to"), writing(store.engine) as connection:
            connection.execute(text(statement))
    assert len(noted(store)) == 1
    store.audit.add(ALICE, "ticket.cancel", f"{IMAGES}/1/pimages/2")
    assert len(noted(store)) == 2


def test_long_uri_of_a_login_is_logged_whole(store: Store) -> None:
    login = "ü" * 255
    store.acting(ALICE).users.add(login, "secret")
    ((_, object, _),) = noted(store)
    assert object == f"users/{'%C3%BC' * 255}"


def test_long_address_and_long_request_id_are_cut(store: Store) -> None:
    store.acting(Actor("alice", "api", "x" * 1000, "y" * 1000)).users.add("bob", "secret")
    (entry,) = store.audit.latest()
    assert (entry.actor.address, entry.actor.request_id) == ("x" * 64, "y" * 64)
