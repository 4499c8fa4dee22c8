"""API keys; users and roles, for administrators; the page of the signed-in user."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from urllib.parse import quote

import pytest

from publisher.services import first_user
from tests.records import password_hash, remove_image
from tests.service import PASSWORDS, Service
from tests.unit.console.conftest import Browser, Page, browse

Browsers = Callable[..., Browser]

NEW_USER = "/users/-/new"


def wrong(page: Page, field: str) -> str:
    return str(page.root.xpath(f"string(//p[@id='{field}-wrong'])"))


# API keys -----------------------------------------------------------------------------------------------------------


def test_a_secret_key_is_shown_once_and_signs_requests(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    page = alice.post("/keys", {"name": "ci", "description": "of the pipeline"})
    assert page.status == 201
    assert page.headers["cache-control"] == "no-store"
    public, secret = (page.root.xpath(f"string(//code[@id='{id}'])") for id in ("public", "secret"))
    signed = f"users/alice?apiKey={public}"
    mac = base64.b64encode(hmac.digest(secret.encode(), signed.encode(), "sha1")).decode()
    answer = fresh.get(f"{signed}&signature={quote(mac, safe='')}", login=None)
    assert answer.status == 200, answer.body
    listed = alice.get("/keys")
    assert public in listed.text
    assert "of the pipeline" in listed.text
    for shown in (listed, alice.get("/keys/1/delete"), alice.get("/publications")):
        assert secret not in shown.text
    assert alice.post("/keys/1/delete").location == "/console/keys"
    assert fresh.store.api_keys.list("alice") == []
    assert [each.action for each in fresh.store.audit.latest(2)] == ["key.delete", "key.create"]


def test_a_key_needs_a_name(fresh: Service, browser: Browsers) -> None:
    page = browser("alice").post("/keys", {"name": " ", "description": "kept"})
    assert page.status == 400
    assert "Name is needed" in wrong(page, "name")
    assert page.root.xpath("//input[@name='description']/@value") == ["kept"]
    assert fresh.store.api_keys.list(None) == []


@pytest.mark.long
def test_keys_of_others_do_not_exist(fresh: Service, browser: Browsers) -> None:
    browser("bob").post("/keys", {"name": "of bob"})
    alice, root = browser("alice"), browser("root")
    assert "of bob" not in alice.get("/keys").text
    assert alice.get("/keys/1/delete").status == alice.post("/keys/1/delete").status == 404
    assert alice.post("/keys/1/delete", csrf="wrong").status == 403
    assert "of bob" in root.get("/keys").text
    assert root.post("/keys/1/delete").status == 303
    carol = browser("carol")
    assert [carol.get("/keys").status, carol.post("/keys", {"name": "x"}, csrf=carol.get("/me").csrf).status] == [
        403,
        403,
    ]


# Users and roles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/users", NEW_USER, "/users/bob", "/users/bob/delete", "/roles", "/fleet", "/audit"])
def test_administration_pages_need_an_administrator(browser: Browsers, path: str) -> None:
    assert browser("alice").get(path).status == 403
    assert browser("root").get(path).status == 200


@pytest.mark.parametrize(
    "path", [NEW_USER, "/users/bob/rights", "/users/bob/password", "/users/bob/delete", "/roles", "/roles/delete"]
)
def test_other_users_change_nothing(fresh: Service, browser: Browsers, path: str) -> None:
    before = fresh.store.users.list(), password_hash(fresh.store, "bob")
    fields = {"login": "new", "password": "x", "again": "x", "administrator": "true", "name": "r"}
    assert browser("alice").post(path, fields).status == 403
    assert browser("root").post(path, fields, csrf="wrong").status == 403
    assert (fresh.store.users.list(), password_hash(fresh.store, "bob")) == before


def test_a_user_is_added_and_signs_in(fresh: Service, browser: Browsers) -> None:
    fresh.store.roles.add("watchers", entitlements=frozenset({"image_generate"}))
    root = browser("root")
    fields = {
        "login": "dora", "password": "p-w-p-w-p-w", "again": "p-w-p-w-p-w",
        "entitlements": ["image_publish", "api_key_access"], "roles": "watchers",
    }  # fmt: skip
    assert root.post(NEW_USER, fields).location == "/console/users"
    dora = fresh.store.users.get("dora")
    assert dora
    assert not dora.administrator
    assert dora.entitlements == {"image_publish", "api_key_access"}
    assert [role.name for role in dora.roles] == ["watchers"]
    assert browser().sign_in("dora", "p-w-p-w-p-w").status == 303
    assert "dora" in root.get("/users").words


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"login": "a b"}, "login", "Login must not be . or .., or contain"),
        ({"login": ""}, "login", "Login is needed"),
        ({"login": ".."}, "login", "Login must not be . or .., or contain"),
        ({"again": "other"}, "password", "must be the same in both fields"),
        ({"password": "", "again": ""}, "password", "must not be empty"),
        ({"password": "seven77", "again": "seven77"}, "password", "Password must have at least 8 characters."),
        ({"login": "alice"}, "login", "There is a user 'alice' already."),
        ({"roles": "none"}, "", "there is no role none"),
        ({"entitlements": "all"}, "", "unknown: all"),
    ],
)
def test_an_error_in_a_new_user_is_shown(
    fresh: Service, browser: Browsers, change: dict[str, str], field: str, words: str
) -> None:
    page = browser("root").post(NEW_USER, {"login": "dora", "password": "p-w-p-w-p-w", "again": "p-w-p-w-p-w"} | change)
    assert page.status in (400, 409)
    assert words in (wrong(page, field) if field else page.words)
    assert "p-w-p-w-p-w" not in page.text
    assert len(fresh.store.users.list()) == len(PASSWORDS)


def test_entitlements_of_a_user_can_be_changed(fresh: Service, browser: Browsers) -> None:
    fresh.store.roles.add("watchers", entitlements=frozenset({"image_generate"}))
    root, carol = browser("root"), browser("carol")
    assert carol.get("/images").status == 403
    root.post("/users/carol/rights", {"roles": "watchers"})
    assert carol.get("/images").status == 200
    root.post("/users/carol/rights", {"entitlements": ["image_publish"]})
    assert carol.get("/images").status == 403
    user = fresh.store.users.get("carol")
    assert user
    assert not user.roles
    assert user.entitlements == {"image_publish"}
    root.post("/users/carol/rights", {"administrator": "true"})
    assert carol.get("/users").status == 200
    assert {each.action for each in fresh.store.audit.latest(10)} >= {"user.roles", "user.rights"}


def test_last_administrator_cannot_be_removed(fresh: Service, browser: Browsers) -> None:
    root = browser("root")
    page = root.post("/users/root/rights", {})
    assert page.status == 409
    assert "'root' is the last administrator" in page.words
    remove_image(fresh.store, 7)
    assert root.post("/users/root/delete").status == 409
    assert fresh.store.users.get("root")


def test_an_administrator_changes_a_password(fresh: Service, browser: Browsers) -> None:
    root, alice = browser("root"), browser("alice")
    page = root.post("/users/alice/password", {"password": "one-and-all", "again": "two"})
    assert (page.status, "must be the same" in wrong(page, "password")) == (400, True)
    assert root.post("/users/alice/password", {"password": "one-and-all", "again": "one-and-all"}).status == 303
    assert alice.get("/publications").status == 303, "signed out"
    assert browser().sign_in("alice", "one-and-all").status == 303
    assert (
        root.post("/users/root/password", {"password": "one-and-all", "again": "one-and-all"}).location == "/console/me"
    )


def test_user_with_images_is_not_deleted(fresh: Service, browser: Browsers) -> None:
    root = browser("root")
    page = root.get("/users/bob/delete")
    assert "they own images" in page.words
    assert root.post("/users/bob/delete").status == 409
    remove_image(fresh.store, 31)
    assert "API keys" in root.get("/users/bob/delete").words
    assert root.post("/users/bob/delete").location == "/console/users"
    assert fresh.store.users.get("bob") is None
    assert root.get("/users/bob").status == root.get("/users/al%00ice").status == 404


def test_any_login_has_a_page(fresh: Service, browser: Browsers) -> None:
    root = browser("root")
    for login in ("åsa", "new", "-", "a%b", "<b>&\"'"):
        if login != "åsa":
            fresh.store.users.add(login, "x")
        (path,) = [href for href in root.get("/users").links(login) if href.startswith("/console/users/")][:1]
        page = root.get(path.removeprefix("/console"))
        assert (page.status, page.root.xpath("string(//h1/text()[1])").strip()) == (200, login)


@pytest.mark.long
def test_roles_are_added_and_deleted(fresh: Service, browser: Browsers) -> None:
    root = browser("root")
    name = "a/b ?&'"
    page = root.post("/roles", {"name": name})
    assert (page.status, "needs at least one" in page.words) == (400, True)
    fields = {"name": name, "description": "words", "entitlements": ["image_publish"]}
    assert root.post("/roles", fields).status == 303
    assert root.post("/roles", fields).status == 409
    root.post("/users/carol/rights", {"roles": name})
    page = root.get("/roles")
    assert page.links("carol") == ["/console/users/carol"]
    (delete,) = page.links("Delete")
    assert "remove it from these users first" in root.get(delete.removeprefix("/console")).words
    assert root.post("/roles/delete", {"name": name}).status == 409
    root.post("/users/carol/rights", {})
    assert "No user has it" in root.get(delete.removeprefix("/console")).words
    assert root.post("/roles/delete", {"name": name}).status == 303
    assert fresh.store.roles.list() == []
    assert root.get("/roles/delete?name=none").status == root.post("/roles/delete", {"name": "none"}).status == 404


# The profile page ---------------------------------------------------------------------------------------------------


def test_users_change_their_own_password(fresh: Service, browser: Browsers) -> None:
    alice, elsewhere = browser("alice"), browser("alice")
    fields = {"current": PASSWORDS["alice"], "password": "much-better", "again": "much-better"}
    page = alice.post("/me/password", fields | {"current": "wrong"})
    assert (page.status, wrong(page, "current")) == (400, "The current password is wrong.")
    assert alice.post("/me/password", fields | {"again": "worse"}).status == 400
    answer = alice.post("/me/password", fields)
    assert (answer.status, answer.location) == (303, "/console/me")
    assert alice.get("/me").status == 200, "here it goes on"
    assert elsewhere.get("/me").status == 303
    assert browser().sign_in("alice").status == 401
    assert browser().sign_in("alice", "much-better").status == 303
    assert "much-better" not in str(fresh.store.audit.latest(20))


@pytest.mark.long
def test_the_password_cannot_be_guessed_at_an_unlocked_browser(start: Callable[..., Service]) -> None:
    alice = browse(start(sign_in_failures_max=10), "alice")
    fields = {"current": "guess", "password": "x", "again": "x"}
    assert [alice.post("/me/password", fields).status for _ in range(10)] == [400] * 10
    assert alice.post("/me/password", fields | {"current": PASSWORDS["alice"]}).status == 429


def test_the_first_password_s_file_is_deleted_with_the_password(start: Callable[..., Service]) -> None:
    service = start()
    kept = service.settings.data_dir / first_user.PASSWORD_FILE
    kept.write_text("x")
    alice, root = browse(service, "alice"), browse(service, "root")
    alice.post("/me/password", {"current": PASSWORDS["alice"], "password": "brand-new", "again": "brand-new"})
    assert kept.exists()
    root.post("/me/password", {"current": PASSWORDS["root"], "password": "brand-new", "again": "brand-new"})
    assert not kept.exists()


def test_users_see_and_end_their_sessions(browser: Browsers) -> None:
    alice, elsewhere, bob = browser("alice"), browser("alice"), browser("bob")
    page = alice.get("/me")
    (end,) = page.root.xpath("//form[contains(@action, '/me/sessions/')]/@action")
    assert "Another browser" in page.words
    path = end.removeprefix("/console")
    assert bob.post(path).status == 303
    assert elsewhere.get("/me").status == 200, "another's is not ended"
    assert alice.post(path, csrf="wrong").status == 403
    assert alice.post(path).status == 303
    assert elsewhere.get("/me").status == 303
    assert alice.get("/me").status == 200
    cookie = alice.client.cookies["publisher_session"]
    assert cookie not in page.text


def test_users_see_their_entitlements(browser: Browsers) -> None:
    assert "None yet" in browser("carol").get("/me").words
    assert "Store and change cloud accounts" in browser("alice").get("/me").words
    assert "Everything" in browser("root").get("/me").words
