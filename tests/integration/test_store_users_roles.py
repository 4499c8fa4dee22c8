"""Roles, their users, and API keys, on each kind of database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.intake.documents import status_document
from publisher.store import Store
from publisher.store.api_keys import ApiKey
from publisher.store.ticket_rows import Extent
from publisher.store.users import Sought, User
from tests.records import add_ticket, password_hash, remove_image, statements


@pytest.fixture(autouse=True)
def _filled(store: Store) -> None:
    store.roles.add("publishing", entitlements=frozenset({"image_publish"}), description="Publishes")
    store.roles.add("keys", entitlements=frozenset({"api_key_access", "image_publish"}))
    store.users.add("root", "x", administrator=True)
    store.users.add("anna", "x", entitlements=frozenset({"image_generate"}), roles=frozenset({"publishing"}))


def anna(store: Store) -> User:
    found = store.users.get("anna")
    assert found is not None
    return found


def names(user: User) -> list[str]:
    return [role.name for role in user.roles]


def key(store: Store, owner: str = "anna", public_key: str = "PUBLIC") -> ApiKey:
    return store.api_keys.add(owner=owner, name="ci", description="", public_key=public_key, sealed_secret=b"\0sealed")


def test_user_has_its_own_entitlements_and_those_of_its_roles(store: Store) -> None:
    user = anna(store)
    assert [user.may(each) for each in ("image_generate", "image_publish", "api_key_access")] == [True, True, False]
    assert user.entitlements == {"image_generate"}
    assert user in store.users.list()
    assert [(role.name, role.description) for role in store.roles.list()] == [
        ("keys", ""), ("publishing", "Publishes"),
    ]  # fmt: skip


def test_roles_are_given_and_taken_away(store: Store) -> None:
    changed = store.users.change_roles("anna", add=frozenset({"keys"}), remove=frozenset({"publishing"}))
    assert (names(changed), changed) == (["keys"], anna(store))
    assert changed.may("api_key_access")
    assert names(store.users.change_roles("anna", add=frozenset({"keys"}))) == ["keys"], "repeatable"
    store.users.change_roles("anna", remove=frozenset({"keys"}))
    assert not anna(store).may("image_publish")


@pytest.mark.parametrize(
    ("login", "add", "remove", "error"),
    [
        ("nobody", {"keys"}, set(), NotFound),
        ("anna", {"nothing"}, set(), InvalidRequest),
        ("anna", set(), {"keys"}, InvalidRequest),
        ("anna", {"keys"}, {"keys"}, InvalidRequest),
        ("anna", {"keys", "nothing"}, {"publishing"}, InvalidRequest),
    ],
)
def test_invalid_change_of_roles_is_refused_as_a_whole(
    store: Store, login: str, add: set[str], remove: set[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.users.change_roles(login, add=frozenset(add), remove=frozenset(remove))
    assert names(anna(store)) == ["publishing"]


def test_own_entitlements_of_a_user_are_changed(store: Store) -> None:
    changed = store.users.change_rights("anna", administrator=True, entitlements=frozenset({"api_key_access"}))
    assert changed == anna(store)
    assert (changed.administrator, names(changed)) == (True, ["publishing"])
    assert changed.entitlements == {"api_key_access"}
    store.users.change_rights("root", administrator=False, entitlements=frozenset())
    with pytest.raises(Conflict, match="'anna' is the last administrator"):
        store.users.change_rights("anna", administrator=False, entitlements=frozenset())
    assert anna(store) == changed
    with pytest.raises(InvalidRequest, match="unknown: all"):
        store.users.change_rights("anna", administrator=True, entitlements=frozenset({"all"}))
    with pytest.raises(NotFound):
        store.users.change_rights("nobody", administrator=True, entitlements=frozenset())


def test_user_with_an_unknown_role_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="there is no role nothing"):
        store.users.add("bert", "x", roles=frozenset({"nothing"}))
    assert store.users.get("bert") is None


@pytest.mark.parametrize(
    ("name", "entitlements", "description"),
    [
        ("", {"image_publish"}, ""),
        ("x" * 65, {"image_publish"}, ""),
        (" x", {"image_publish"}, ""),
        ("a\nb", {"image_publish"}, ""),
        ("x", {"fly"}, ""),
        ("x", set(), ""),
        ("x", {"image_publish"}, "a\0b"),
    ],
)
def test_invalid_role_is_refused(store: Store, name: str, entitlements: set[str], description: str) -> None:
    with pytest.raises(InvalidRequest):
        store.roles.add(name, entitlements=frozenset(entitlements), description=description)
    assert len(store.roles.list()) == 2


def test_duplicate_role_and_removal_of_a_used_role_are_conflicts(store: Store) -> None:
    with pytest.raises(Conflict, match="already"):
        store.roles.add("keys", entitlements=frozenset({"image_publish"}))
    with pytest.raises(Conflict, match="a role of anna"):
        store.roles.remove("publishing")
    assert anna(store).may("image_publish")
    store.users.change_roles("anna", remove=frozenset({"publishing"}))
    store.roles.remove("publishing")
    with pytest.raises(NotFound):
        store.roles.remove("publishing")
    assert [role.name for role in store.roles.list()] == ["keys"]


def test_api_keys_are_unique_and_belong_to_one_user(store: Store) -> None:
    made = key(store)
    other = key(store, "root", "OTHER")
    assert (store.api_keys.list("anna"), store.api_keys.list("root")) == ([made], [other])
    assert store.api_keys.sealed_secret("PUBLIC") == ("anna", b"\0sealed")
    assert store.api_keys.sealed_secret("public") is None
    for owner, public_key in (("anna", "OTHER"), ("nobody", "NEW")):
        with pytest.raises(Conflict):
            key(store, owner, public_key)
    with pytest.raises(NotFound):
        store.api_keys.remove("anna", other.id)
    store.api_keys.remove("anna", made.id)
    assert (store.api_keys.list("anna"), store.api_keys.sealed_secret("PUBLIC")) == ([], None)
    assert key(store).id not in (made.id, other.id), "a number is never given again"


def test_administrator_finds_the_keys_of_all_users(store: Store) -> None:
    mine, theirs = key(store), key(store, "root", "OTHER")
    assert store.api_keys.list(None) == [mine, theirs]
    assert store.api_keys.get(None, theirs.id) == theirs
    with pytest.raises(NotFound, match="there is no API key 99"):
        store.api_keys.get(None, 99)


def test_keys_are_removed_with_their_user(store: Store) -> None:
    key(store)
    store.users.remove("anna")
    assert store.api_keys.sealed_secret("PUBLIC") is None


def test_one_statement_reads_the_caller_and_the_wanted_ticket(store: Store) -> None:
    store.users.change_roles("anna", add=frozenset({"keys"}))
    key(store)
    ticket = add_ticket(store, owner="anna")
    image = store.images.get(ticket.image_id)
    with statements(store.engine) as executed:
        whole = store.users.caller("anna", Extent.WHOLE, ticket.id)
    assert len(executed) == 1
    assert whole
    assert (whole.user, whole.ticket, whole.image) == (anna(store), ticket, image)
    assert names(whole.user) == ["keys", "publishing"]
    assert whole.password_hash == password_hash(store, "anna")
    with statements(store.engine) as executed:
        signed = store.users.callers([Sought("PUBLIC", True, Extent.STATUS, ticket.id)])[0]
    assert len(executed) == 1
    assert signed
    assert (signed.user, signed.sealed_secret, signed.image) == (anna(store), b"\0sealed", None)
    assert signed.ticket
    assert status_document(signed.ticket) == status_document(ticket)
    # An administrator finds a ticket of anybody, and everybody finds that a ticket is missing.
    remove_image(store, ticket.image_id)
    as_root = store.users.caller("root", Extent.WHOLE, ticket.id)
    assert as_root
    assert (as_root.user.roles, as_root.ticket, as_root.image) == ((), ticket, None)
    missing = store.users.caller("root", Extent.STATUS, ticket.id + 1)
    assert missing
    assert (missing.user, missing.ticket) == (as_root.user, None)
    assert store.users.caller("nobody", Extent.WHOLE, ticket.id) is None
    assert store.users.callers([Sought("public", by_key=True)]) == [None]


def test_several_callers_and_tickets_are_read_together(store: Store) -> None:
    store.users.change_roles("anna", add=frozenset({"keys"}))
    key(store)
    ticket, other = add_ticket(store, owner="anna"), add_ticket(store, owner="anna", image_id=2)
    remove_image(store, other.image_id)
    group = [
        Sought("anna", beside=Extent.WHOLE, ticket_id=ticket.id),
        Sought("anna", beside=Extent.STATUS, ticket_id=ticket.id),
        Sought("root", beside=Extent.WHOLE, ticket_id=other.id),
        Sought("anna", beside=Extent.STATUS, ticket_id=other.id + 1),
        Sought("anna"),
        Sought("nobody", beside=Extent.STATUS, ticket_id=ticket.id),
        Sought("PUBLIC", by_key=True, beside=Extent.STATUS, ticket_id=other.id),
        Sought("PUBLIC"),
        Sought("anna", by_key=True),
    ]
    with statements(store.engine) as executed:
        found = store.users.callers(group)
    assert len(executed) == 4
    assert found == [store.users.callers([each])[0] for each in group]
    assert [each is None for each in found] == [False] * 5 + [True, False, True, True]


def test_a_caller_is_read_again_for_each_request(stores: Callable[[], Store]) -> None:
    here, there = stores(), stores()
    ticket = add_ticket(here, owner="anna")
    before = there.users.caller("anna", Extent.STATUS, ticket.id)
    assert before
    here.users.set_password("anna", "another")
    here.users.change_roles("anna", remove=frozenset({"publishing"}))
    after = there.users.caller("anna", Extent.STATUS, ticket.id)
    assert after
    assert after.password_hash != before.password_hash
    assert (before.user.may("image_publish"), after.user.may("image_publish")) == (True, False)
    here.users.remove("anna")
    assert there.users.caller("anna", Extent.STATUS, ticket.id) is None
