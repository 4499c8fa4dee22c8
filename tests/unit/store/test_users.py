"""Users, on each kind of database."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from argon2 import Parameters, PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.store import Store
from publisher.store.users import ENTITLEMENTS, verify_password
from tests.patience import PATIENCE
from tests.records import add_image, password_hash


def test_a_user_is_added_and_verified(store: Store) -> None:
    added = store.users.add("root", "correct horse", administrator=True)
    assert store.users.get("root") == added
    stored = password_hash(store, "root")
    assert stored is not None
    assert stored.startswith("$argon2id$")
    assert verify_password(stored, "correct horse")
    assert not verify_password(stored, "wrong")
    assert not verify_password(stored, "")


@pytest.mark.parametrize("stored", [None, "", "-", "no hash", "$argon2id$v=19$m=65536,t=3,p=4$c2hvcnQ$c2hvcnQ"])
def test_no_password_matches_an_invalid_hash(stored: str | None) -> None:
    assert not verify_password(stored, "no such user")


def test_an_unknown_login_costs_as_much_as_a_wrong_password(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Parameters] = []

    def verify(self: PasswordHasher, stored: str, password: str) -> bool:
        checked.append(extract_parameters(stored))
        with pytest.raises(VerifyMismatchError):  # the whole hash is computed, not cut short by a malformed one
            return real_verify(self, stored, password)
        raise VerifyMismatchError

    real_verify = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", verify)
    store.users.add("root", "correct horse")
    for stored in (password_hash(store, "root"), None):
        assert not verify_password(stored, "wrong")
    assert checked[0] == checked[1]


def test_equal_passwords_have_different_hashes(store: Store) -> None:
    store.users.add("a", "same")
    store.users.add("b", "same")
    assert password_hash(store, "a") != password_hash(store, "b")


def test_users_may_do_what_they_are_entitled_to_and_administrators_everything(store: Store) -> None:
    store.users.add("guest", "x", entitlements=frozenset({"image_generate"}))
    guest = store.users.get("guest")
    assert guest is not None
    assert guest.may("image_generate")
    assert not guest.may("image_publish")
    root = store.users.add("root", "x", administrator=True, entitlements=frozenset())
    assert all(root.may(each) for each in ENTITLEMENTS)


@pytest.mark.parametrize("login", ["", "a b", "a/b", "a:b", "a?b", "a#b", "a\nb", "a\0b", "x" * 256, ".", ".."])
def test_a_login_that_would_not_fit_a_uri_is_refused(sqlite_store: Store, login: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sqlite_store.users.add(login, "x")
    assert raised.value.field == "login"
    assert sqlite_store.users.list() == []


def test_bad_passwords_and_entitlements_are_refused(sqlite_store: Store) -> None:
    with pytest.raises(InvalidRequest, match="password"):
        sqlite_store.users.add("a", "")
    with pytest.raises(InvalidRequest, match="unknown: fly; known are image_publish"):
        sqlite_store.users.add("a", "x", entitlements=frozenset({"fly"}))


def test_a_taken_login_is_a_conflict(store: Store) -> None:
    store.users.add("root", "first")
    with pytest.raises(Conflict, match="'root' already"):
        store.users.add("root", "second")
    assert verify_password(password_hash(store, "root"), "first")


def test_a_password_is_changed(store: Store) -> None:
    store.users.add("root", "old")
    store.users.set_password("root", "new")
    assert verify_password(password_hash(store, "root"), "new")
    assert not verify_password(password_hash(store, "root"), "old")
    with pytest.raises(NotFound):
        store.users.set_password("nobody", "new")


def test_the_last_administrator_cannot_be_removed(store: Store) -> None:
    store.users.add("root", "x", administrator=True)
    store.users.add("guest", "x")
    with pytest.raises(Conflict, match="last administrator"):
        store.users.remove("root")
    assert [user.login for user in store.users.list()] == ["guest", "root"]
    store.users.add("second", "x", administrator=True)
    store.users.remove("root")
    store.users.remove("guest")
    assert [user.login for user in store.users.list()] == ["second"]


def test_one_of_two_administrators_who_remove_each_other_stays(store: Store) -> None:
    for number in range(8):
        store.users.add(f"admin{number}", "x", administrator=True)
    started = threading.Barrier(8)

    def remove(login: str) -> None:
        started.wait(10 * PATIENCE)
        with contextlib.suppress(Conflict):
            store.users.remove(login)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remove, [user.login for user in store.users.list()]))
    assert len(store.users.list()) == 1


def test_each_user_and_role_has_a_number(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        users = list(pool.map(lambda number: store.users.add(f"user{number}", "x"), range(4)))
    assert sorted(user.id for user in users) == [1, 2, 3, 4]
    roles = [store.roles.add(name, entitlements=frozenset({"image_publish"})) for name in "ab"]
    assert [role.id for role in roles] == [1, 2]


def test_an_owner_of_images_cannot_be_removed(store: Store, tmp_path: Path) -> None:
    add_image(store, tmp_path / "root", b"content")
    store.users.add("other", "x", administrator=True)
    with pytest.raises(Conflict, match="still owns images"):
        store.users.remove("root")
    assert store.users.get("root") is not None


def test_removing_an_unknown_user_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        store.users.remove("nobody")
