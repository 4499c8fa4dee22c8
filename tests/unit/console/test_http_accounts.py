"""Cloud accounts: add, change, delete. Their secrets are never shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from publisher.core.cloud_check import CheckResult, Explored, Place
from publisher.core.errors import Reason
from publisher.store.accounts import StoredAccount
from tests.service import SECRET, Service
from tests.unit.console.conftest import Browser, Page

Browsers = Callable[..., Browser]

NEW = "/accounts/new"
FILLED = {
    "platform": "openstack",
    "name": "production",
    "keystoneUrl": "https://cloud.example.com:5000",
    "login": "demo",
    "password": SECRET,
    "keystoneVersion": "v3",
}


def create(service: Service, browser: Browser, **changes: str) -> StoredAccount:
    assert browser.post(NEW, FILLED | changes).status == 303
    return service.store.accounts.list()[-1]


def secret(service: Service, account: StoredAccount) -> dict[str, str]:
    opened: dict[str, str] = service.app.state.services.sealer.open(account.sealed_secrets)
    return opened


def wrong(page: Page, field: str) -> str:
    return str(page.root.xpath(f"string(//p[@id='{field}-wrong'])"))


@pytest.mark.long
def test_an_account_is_stored_and_its_password_never_shown(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    assert (account.owner, account.name, account.platform) == ("alice", "production", "openstack")
    assert account.fields == {name: FILLED[name] for name in ("keystoneUrl", "login", "keystoneVersion")}
    assert secret(fresh, account) == {"password": SECRET}
    for path in ("/accounts", f"/accounts/{account.id}", f"/accounts/{account.id}/delete", "/publications/new"):
        page = alice.get(path)
        assert page.status == 200
        assert "production" in page.text
        assert SECRET not in page.text
    entry = fresh.store.audit.latest(1)[0]
    assert (entry.action, entry.actor.login, entry.actor.door) == ("account.create", "alice", "console")
    assert SECRET not in entry.detail


@pytest.mark.long
def test_user_domain_and_interface_are_stored(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    form = alice.get(NEW + "?platform=openstack")
    assert form.root.xpath("//input[@name='userDomain']")
    assert form.root.xpath("//select[@name='interface']/option/@value") == ["", "internal", "admin"]
    account = create(fresh, alice, userDomain="people", interface="internal")
    assert (account.fields["userDomain"], account.fields["interface"]) == ("people", "internal")
    path = f"/accounts/{account.id}"
    page = alice.get(path)
    assert page.root.xpath("//input[@name='userDomain']/@value") == ["people"]
    assert page.root.xpath("//select[@name='interface']/option[@selected]/@value") == ["internal"]
    moved = alice.post(path, FILLED | {"userDomain": "others", "password": ""})
    assert "Password must be given again" in wrong(moved, "password")
    assert alice.post(path, FILLED | {"userDomain": "people", "password": ""}).status == 303
    fields = fresh.store.accounts.get("alice", account.id).fields
    assert (fields["userDomain"], fields["interface"]) == ("people", None), "the default again"


def test_application_credential_is_stored_instead_of_a_login(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    assert "an application credential" in alice.get(NEW).text
    no_login = {"login": "", "password": ""}
    credential = {"applicationCredentialId": "4711", "applicationCredentialSecret": SECRET}
    account = create(fresh, alice, **no_login, **credential)
    assert account.fields["applicationCredentialId"] == "4711"
    assert "login" not in account.fields
    assert secret(fresh, account) == {"applicationCredentialSecret": SECRET}
    assert "application credential 4711" in alice.get("/accounts").text
    path = f"/accounts/{account.id}"
    assert SECRET not in alice.get(path).text
    kept = FILLED | no_login | {"applicationCredentialId": "4711"}
    assert alice.post(path, kept | {"interface": "internal"}).status == 303
    moved = alice.post(path, kept | {"applicationCredentialId": "4712"})
    assert "must be given again" in wrong(moved, "applicationCredentialSecret")
    assert "is needed" in wrong(alice.post(path, kept | {"password": "another"}), "login")
    assert alice.post(path, FILLED | {"password": "another"}).status == 303, "a login again"
    assert secret(fresh, fresh.store.accounts.get("alice", account.id)) == {"password": "another"}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"name": ""}, "name", "Name is needed: 1 to 255 characters"),
        ({"keystoneUrl": ""}, "keystoneUrl", "Keystone URL is needed"),
        ({"keystoneUrl": "ftp://x"}, "keystoneUrl", "must be an address"),
        ({"keystoneUrl": "https://u:p@x"}, "keystoneUrl", "must not hold a login or password"),
        ({"password": ""}, "password", "Password is needed"),
        ({"keystoneVersion": "v9"}, "keystoneVersion", "'v9' is unknown"),
        ({"login": "x" * 5000}, "login", "too many"),
    ],
)
def test_an_error_is_shown_at_its_field(
    fresh: Service, browser: Browsers, change: dict[str, str], field: str, words: str
) -> None:
    page = browser("alice").post(NEW, FILLED | change)
    assert page.status == 400
    assert words in wrong(page, field)
    assert SECRET not in page.text
    assert page.root.xpath("//input[@name='password']/@value") == [""]
    assert fresh.store.accounts.list() == []


def test_a_name_cannot_be_used_twice(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    create(fresh, alice)
    page = alice.post(NEW, FILLED)
    assert page.status == 409
    assert "There is an account 'production' already." in wrong(page, "name")


def test_an_empty_password_keeps_the_stored_one(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    path = f"/accounts/{account.id}"
    fields = FILLED | {"name": "renamed", "password": "", "keystoneVersion": "", "glanceUrl": ""}
    assert alice.post(path, fields).status == 303
    changed = fresh.store.accounts.get("alice", account.id)
    assert (changed.name, changed.fields["keystoneVersion"]) == ("renamed", None)
    assert changed.sealed_secrets == account.sealed_secrets
    assert alice.get(path).root.xpath("//input[@name='password']/@required") == []
    assert alice.post(path, fields | {"password": "another"}).status == 303
    assert secret(fresh, fresh.store.accounts.get("alice", account.id)) == {"password": "another"}


@pytest.mark.parametrize("change", [{"keystoneUrl": "https://elsewhere.example"}, {"login": "other"}])
def test_a_stored_password_is_not_sent_to_another_address(
    fresh: Service, browser: Browsers, change: dict[str, str]
) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    path, fields = f"/accounts/{account.id}", FILLED | change | {"password": ""}
    page = alice.post(path, fields)
    assert page.status == 400
    assert "must be given again, because the address or the login changes" in wrong(page, "password")
    assert fresh.store.accounts.get("alice", account.id) == account
    assert alice.post(path, fields | {"password": "another"}).status == 303
    assert secret(fresh, fresh.store.accounts.get("alice", account.id)) == {"password": "another"}


def test_an_invalid_change_changes_nothing(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    page = alice.post(f"/accounts/{account.id}", FILLED | {"keystoneUrl": "", "password": "another"})
    assert page.status == 400
    assert "is needed" in wrong(page, "keystoneUrl")
    assert "another" not in page.text
    assert fresh.store.accounts.get("alice", account.id) == account


def test_deletion_explains_its_effects_first(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    page = alice.get(f"/accounts/{account.id}/delete")
    assert "Tickets that use it continue and can be retried" in page.words
    assert alice.post(f"/accounts/{account.id}/delete").location == "/console/accounts"
    assert fresh.store.accounts.list() == []
    assert fresh.store.audit.latest(1)[0].action == "account.delete"


def test_accounts_of_others_do_not_exist(fresh: Service, browser: Browsers) -> None:
    account = create(fresh, browser("bob"))
    alice, root = browser("alice"), browser("root")
    for path in (f"/accounts/{account.id}", f"/accounts/{account.id}/delete"):
        assert alice.get(path).status == alice.post(path, FILLED).status == 404
        assert root.get(path).status == 200
    assert "production" not in alice.get("/accounts").text
    assert "production" in root.get("/accounts").text
    assert fresh.store.accounts.get("bob", account.id) == account


def test_changes_need_the_entitlement_and_the_token(fresh: Service, browser: Browsers) -> None:
    carol = browser("carol")
    token = carol.get("/me").csrf
    assert carol.get("/accounts").status == 200
    assert carol.get("/accounts").links("Add account") == []
    assert [carol.get(NEW).status, carol.post(NEW, FILLED, csrf=token).status] == [403, 403]
    alice = browser("alice")
    account = create(fresh, alice)
    for path in (NEW, f"/accounts/{account.id}", f"/accounts/{account.id}/delete"):
        assert alice.post(path, FILLED, csrf="wrong").status == 403
    assert fresh.store.accounts.list() == [account]


def test_each_platform_has_its_own_fields(browser: Browsers) -> None:
    alice = browser("alice")
    page = alice.post(NEW, {"platform": "memory", "name": "Kept", "show": "1"})
    assert page.status == 200
    names = page.root.xpath("//main//form//*[self::input or self::select]/@name")
    assert names == ["csrf", "platform", "name", "login", "password", "nameTemplate"]
    assert page.root.xpath("//input[@name='name']/@value") == ["Kept"]


def list_after_test(service: Service, browser: Browser, account: StoredAccount, result: CheckResult) -> Page:
    """Test an account, with a result in place of a worker's, and return the list of accounts."""

    def answer(check_id: int) -> None:
        claimed = service.store.checks.claim(check_id)
        assert claimed is not None
        service.store.checks.finish(claimed, result)

    service.waker.on_check = answer
    done = browser.post(f"/accounts/{account.id}/test")
    assert (done.status, done.location) == (303, "/console/accounts")
    return browser.get("/accounts")


@pytest.mark.long
def test_an_account_is_tested_and_the_form_suggests_what_it_sees(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    page = alice.get("/accounts")
    (form,) = page.root.xpath(f"//form[@action='/console/accounts/{account.id}/test']")
    assert page.root.xpath(f"normalize-space(//button[@form='{form.get('id')}'])") == "Test production"
    seen = Explored.of(
        projects=[Place("8ac0", "demo"), Place("77b1", "<lab>")],
        regions=[Place("RegionOne", "RegionOne")],
        networks=[Place("5e1f", "office")],
    )
    page = list_after_test(fresh, alice, account, CheckResult(True, "signed in as demo", explored=seen))
    places = "Projects: <lab>, demo. Regions: RegionOne. Networks: office."
    assert f"Account production: Signed in as demo. {places}" in page.words
    form = alice.get(f"/publications/new?account={account.id}")
    (field,) = form.root.xpath("//input[@id='keystoneProject']")
    options = form.root.xpath(f"//datalist[@id='{field.get('list')}']/option")
    assert [(each.get("value"), each.get("label")) for each in options] == [("77b1", "<lab>"), ("8ac0", "demo")]


@pytest.mark.long
def test_a_failed_test_says_what_is_wrong(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    account = create(fresh, alice)
    page = list_after_test(
        fresh, alice, account, CheckResult(False, "the login was refused", reason=Reason.CREDENTIALS)
    )
    assert "Account production: The login was refused." in page.words
    assert page.root.xpath("//*[contains(@class, 'problem')]")


def test_accounts_of_others_are_not_tested(fresh: Service, browser: Browsers) -> None:
    account = create(fresh, browser("alice"))
    assert browser("bob").post(f"/accounts/{account.id}/test").status == 404
    assert browser("carol").post(f"/accounts/{account.id}/test").status == 403
    assert fresh.waker.checks == []
