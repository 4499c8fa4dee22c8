"""The form that publishes an image: choices, errors, and the equivalent curl command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from publisher.core.cloud_check import CheckResult
from publisher.core.errors import Reason
from publisher.core.ticket import State
from publisher.store.accounts import StoredAccount
from tests.service import ACCOUNT, IMAGES, JSON, PASSWORDS, SECRET, Service
from tests.unit.console.conftest import HERE, Browser, Page, browse

Browsers = Callable[..., Browser]

NEW = "/publications/new"
INLINE = {f"credAccount.{name}": ACCOUNT[name] for name in ("keystoneUrl", "login", "password", "keystoneVersion")}


def store_account(service: Service, owner: str = "alice", name: str = "production", **fields: Any) -> StoredAccount:
    clear = {"keystoneUrl": "http://127.0.0.1:5000", "login": "demo"} | fields
    sealed = service.app.state.services.sealer.seal({"password": SECRET})
    return service.store.accounts.add(owner=owner, name=name, platform="openstack", fields=clear, sealed_secrets=sealed)


def command(page: Page) -> list[str]:
    return shlex.split(str(page.root.xpath("string(//code[@id='command'])")))


def wrong(page: Page, field: str) -> str:
    return str(page.root.xpath(f"string(//p[@id='{field}-wrong'])"))


def test_an_image_is_published_with_a_stored_account(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    alice = browser("alice")
    answer = alice.post(NEW, {"image": "21", "account": str(account.id), "displayName": "Nice", "publicImage": "true"})
    (ticket,) = fresh.store.tickets.list()
    assert (answer.status, answer.location) == (303, f"/console/publications/{ticket.id}")
    assert (ticket.owner, ticket.image_id, ticket.account_id, ticket.name) == ("alice", 21, account.id, "Nice")
    assert ticket.target["publicImage"] is True
    assert ticket.sealed_secrets == account.sealed_secrets
    assert (fresh.waker.ids, fresh.waker.committed) == ([ticket.id], [True])
    entry = fresh.store.audit.latest(1)[0]
    assert (entry.action, entry.actor.login, entry.actor.door) == ("ticket.create", "alice", "console")
    assert f"Ticket {ticket.id} accepted." in alice.get(f"/publications/{ticket.id}").words


def test_publishing_works_without_the_broker(fresh: Service, browser: Browsers) -> None:
    fresh.waker.break_down()
    answer = browser("alice").post(NEW, {"image": "21", "account": "other", "platform": "openstack", **INLINE})
    assert answer.status == 303
    assert fresh.store.tickets.list()[0].state is State.QUEUED


def test_an_account_can_be_entered_for_one_ticket(fresh: Service, browser: Browsers) -> None:
    browser("alice").post(NEW, {"image": "21", "account": "other", "platform": "openstack", **INLINE})
    (ticket,) = fresh.store.tickets.list()
    assert ticket.account == {"keystoneUrl": ACCOUNT["keystoneUrl"], "login": "demo", "keystoneVersion": "v3"}
    assert SECRET not in str(ticket.account)
    assert ticket.sealed_secrets is not None
    assert fresh.store.accounts.list() == []


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"credAccount.keystoneUrl": ""}, "credAccount.keystoneUrl", "Keystone URL is needed to publish to openstack"),
        ({"credAccount.keystoneUrl": "cloud"}, "credAccount.keystoneUrl", "must be an address"),
        ({"credAccount.password": ""}, "credAccount.password", "Password is needed"),
        ({"credAccount.keystoneVersion": "v9"}, "credAccount.keystoneVersion", "'v9' is unknown"),
        ({"credAccount.keystoneVersion": "v2.0"}, "tenantName", "Tenant name is needed with Keystone v2.0"),
        ({"displayName": "n" * 256}, "displayName", "Display name is longer than 255 characters"),
        ({"displayName": "n" * 5000}, "displayName", "5000 characters are too many"),
        ({"displayName": "a\x07b"}, "displayName", "U+0007"),
    ],
)
def test_an_error_is_shown_at_its_field(
    fresh: Service, browser: Browsers, change: dict[str, str], field: str, words: str
) -> None:
    filled = {"image": "21", "account": "other", "platform": "openstack", "displayName": "Kept", **INLINE, **change}
    page = browser("alice").post(NEW, filled)
    assert page.status == 400
    assert words in wrong(page, field)
    (control,) = page.root.xpath(f"//*[@name='{field}']")
    assert control.get("aria-invalid") == "true"
    assert f"{field}-wrong" in control.get("aria-describedby")
    assert page.root.xpath("//input[@name='credAccount.login']/@value") == ["demo"], "what was filled in stays"
    assert SECRET not in page.text
    assert fresh.store.tickets.list() == []


def test_an_error_in_a_stored_account_is_shown_at_the_choice(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh, keystoneUrl="")
    page = browser("alice").post(NEW, {"image": "21", "account": str(account.id)})
    assert page.status == 400
    assert wrong(page, "account") == "Keystone URL is needed to publish to openstack."


def test_a_full_queue_and_a_deleted_image_are_shown(start: Callable[..., Service]) -> None:
    service = start(user_queue_max=1)
    alice = browse(service, "alice")
    account = store_account(service)
    filled = {"image": "21", "account": str(account.id)}
    assert alice.post(NEW, filled).status == 303
    page = alice.post(NEW, filled)
    assert page.status == 429
    assert page.root.xpath("//div[@role='alert']")


def test_images_and_accounts_of_others_do_not_exist(fresh: Service, browser: Browsers) -> None:
    theirs, mine = store_account(fresh, "bob"), store_account(fresh)
    alice = browser("alice")
    assert alice.get(f"{NEW}?image=31").status == 404
    assert alice.post(NEW, {"image": "31", "account": str(mine.id)}).status == 404
    assert alice.post(NEW, {"image": "21", "account": str(theirs.id)}).status == 404
    assert alice.post(f"{NEW}/command", {"image": "21", "account": str(theirs.id)}).status == 404
    for image in ("abc", "-1", "9" * 30, "7\u0660"):
        assert alice.get(f"{NEW}?image={image}").status == 404
    page = alice.get(NEW)
    shown = {int(value) for value in page.root.xpath("//select[@name='image']/option/@value")}
    assert shown == {id for id, (owner, _) in IMAGES.items() if owner == "alice"}


def test_an_administrator_publishes_for_the_owner_of_the_image(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    root = browser("root")
    page = root.get(f"{NEW}?image=22")
    assert page.root.xpath("//select[@name='account']/option/@value") == [str(account.id), "other"]
    root.post(NEW, {"image": "22", "account": str(account.id)})
    (ticket,) = fresh.store.tickets.list()
    assert (ticket.owner, ticket.appliance_id) == ("alice", 15)


def test_publishing_needs_the_entitlement_and_the_token(browser: Browsers) -> None:
    carol = browser("carol")
    assert [carol.get(NEW).status, carol.post(NEW, {}, csrf=carol.get("/me").csrf).status] == [403, 403]
    assert browser("alice").post(NEW, {"image": "21"}, csrf="wrong").status == 403


def test_the_curl_command_makes_the_same_request(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    alice = browser("alice")
    name = 'it\'s "nice" $(x) 雲'
    answer = alice.post(f"{NEW}/command", {"image": "21", "account": str(account.id), "displayName": name})
    arguments = shlex.split(answer.text)
    assert arguments[:3] == ["curl", "-u", "alice"], "curl asks for the password"
    body = arguments[arguments.index("-d") + 1]
    path = arguments[-1].removeprefix("http://console.example/api/")
    made = fresh.post(path, body, login="alice", accept=JSON, content_type=JSON)
    assert made.status == 201, made.body
    ticket = fresh.ticket(made.json["dbId"])
    assert (ticket.name, ticket.account_id, ticket.image_id) == (name, account.id, 21)


def test_the_curl_command_contains_no_password(browser: Browsers) -> None:
    filled = {"image": "21", "account": "other", "platform": "openstack", **INLINE}
    alice = browser("alice")
    for page in (alice.post(f"{NEW}/command", filled), alice.post(NEW, filled | {"show": "1"})):
        assert page.status == 200
        assert SECRET not in page.text
        assert PASSWORDS["alice"] not in page.text
        assert "CLOUD-PASSWORD" in page.text
    body = json.loads(command(page)[command(page).index("-d") + 1])
    assert body["credAccount"]["keystoneUrl"] == ACCOUNT["keystoneUrl"]


def test_the_form_has_the_fields_of_the_platform(browser: Browsers) -> None:
    alice = browser("alice")
    filled = {"image": "22", "account": "other", "platform": "memory", "show": "1", "displayName": "Kept"}
    page = alice.post(NEW, filled)
    assert page.status == 200
    names = page.root.xpath("//form[@id='publication']//*[self::input or self::select]/@name")
    assert names == [
        "csrf",
        "page",
        "shown",
        "image",
        "account",
        "platform",
        "credAccount.login",
        "credAccount.password",
        "displayName",
        "nameTemplate",
        "expires",
        "lineage",
        "older",
        "keep",
        "preflight",
    ]
    assert page.root.xpath("//input[@name='displayName']/@value") == ["Kept"]
    assert page.root.xpath("//select[@name='image']/option[@selected]/@value") == ["22"]
    openstack = alice.get(NEW).root.xpath("//*[@required]/@name")
    assert openstack == ["image", "credAccount.keystoneUrl"], "an application credential needs no login"


ATTRIBUTES = {
    "properties": "os_distro=debian\r\n\r\n hw_disk_bus = virtio=x \r\n",
    "tags": "golden\r\nweb",
    "sharedWith": "lab",
    "hidden": "true",
    "minDisk": "20",
    "minRam": "",
    "visibility": "",
}


def test_image_attributes_are_folded_and_kept_with_the_ticket(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    alice = browser("alice")
    page = alice.get(NEW)
    assert page.root.xpath("//details[@class='more']/@open") == []
    assert page.root.xpath("//details[@class='more']//*[self::input or self::select or self::textarea]/@name") == [
        "properties", "tags", "hidden", "sharedWith", "minDisk", "minRam", "protected", "visibility", "nameTemplate",
    ]  # fmt: skip
    form = {"image": "21", "account": str(account.id), **ATTRIBUTES}
    assert alice.post(NEW, form).status == 303
    (ticket,) = fresh.store.tickets.list()
    assert ticket.target == {
        "displayName": "image 21",
        "publicImage": False,
        "properties": [{"name": "os_distro", "value": "debian"}, {"name": "hw_disk_bus", "value": "virtio=x"}],
        "tags": ["golden", "web"],
        "sharedWith": ["lab"],
        "hidden": True,
        "minDisk": 20,
    }
    words = alice.get(f"/publications/{ticket.id}").words
    for part in ("os_distro=debian", "golden", "Shared withlab", "Hiddenyes", "Minimum disk in GiB20"):
        assert part in words
    # The next use of the account recalls them, and opens the part that has them.
    page = alice.get(f"{NEW}?account={account.id}")
    assert page.root.xpath("//details[@class='more']/@open") != []
    (area,) = page.root.xpath("//textarea[@name='properties']/text()")
    assert area.strip().splitlines() == ["os_distro=debian", "hw_disk_bus=virtio=x"]
    assert {"hidden", "minDisk"} <= set(filled(page))


def test_the_curl_command_has_the_image_attributes(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    answer = browser("alice").post(f"{NEW}/command", {"image": "21", "account": str(account.id), **ATTRIBUTES})
    arguments = shlex.split(answer.text)
    body = arguments[arguments.index("-d") + 1]
    path = arguments[-1].removeprefix("http://console.example/api/")
    made = fresh.post(path, body, login="alice", accept=JSON, content_type=JSON)
    assert made.status == 201, made.body
    assert fresh.ticket(made.json["dbId"]).target["tags"] == ["golden", "web"]


LIFETIME = {"expires": "2999-01-31T18:00:00Z", "lineage": "web", "older": "withdraw", "keep": "2"}


def test_the_form_says_how_long_images_stay(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    alice = browser("alice")
    details = alice.get(NEW).root.xpath("//details[contains(@class, 'lifetime')]")[0]
    assert details.get("open") is None
    assert details.xpath(".//select[@name='older']/option/@value") == ["", "hide", "rename", "withdraw"]
    form = {"image": "21", "account": str(account.id), **LIFETIME}
    assert alice.post(NEW, form).status == 303
    (ticket,) = fresh.store.tickets.list()
    assert ticket.expires == datetime(2999, 1, 31, 18, tzinfo=UTC).timestamp()
    assert (ticket.lineage, ticket.older, ticket.keep) == ("web", "withdraw", 2)
    again = alice.get(f"{NEW}?again={ticket.id}")
    assert filled(again)["lineage"] == "web"
    assert again.root.xpath("//details[contains(@class, 'lifetime')]/@open") != []
    # An empty choice leaves older images as they are.
    assert alice.post(NEW, {**form, "older": "", "keep": "", "expires": ""}).status == 303
    assert fresh.store.tickets.list()[-1].older == "leave"


def test_the_curl_command_says_how_long_images_stay(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    answer = browser("alice").post(f"{NEW}/command", {"image": "21", "account": str(account.id), **LIFETIME})
    arguments = shlex.split(answer.text)
    body = arguments[arguments.index("-d") + 1]
    path = arguments[-1].removeprefix("http://console.example/api/")
    made = fresh.post(path, body, login="alice", accept=JSON, content_type=JSON)
    assert made.status == 201, made.body
    assert (made.json["lineage"], made.json["older"], made.json["keep"]) == ("web", "withdraw", 2)
    assert made.json["expires"] == "2999-01-31T18:00:00.000Z"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires": "soon"}, "'soon' is not a dateTime"),
        ({"expires": "2020-01-31T18:00:00Z"}, "Expires is in the past"),
        ({"keep": "0", "lineage": "web", "older": "withdraw"}, "'0' is not a number"),
        ({"keep": "2", "lineage": "web", "older": "hide"}, "is used only if older is withdraw"),
        ({"older": "hide"}, "is used only with a lineage"),
        ({"older": "x", "lineage": "web"}, "'x' is unknown"),
    ],
)
def test_a_wrong_lifetime_is_shown_at_its_field(
    fresh: Service, browser: Browsers, change: dict[str, str], words: str
) -> None:
    account = store_account(fresh)
    page = browser("alice").post(NEW, {"image": "21", "account": str(account.id), **change})
    field = next(iter(change))
    assert page.status == 400
    assert words in wrong(page, field)
    assert page.root.xpath("//details[contains(@class, 'lifetime')]/@open") != []
    assert fresh.store.tickets.list() == []


def test_a_lifetime_needs_a_stored_account(fresh: Service, browser: Browsers) -> None:
    form = {"image": "21", "account": "other", "platform": "openstack", **INLINE}
    page = browser("alice").post(NEW, form | {"expires": LIFETIME["expires"]})
    assert page.status == 400
    assert "needs a stored account" in wrong(page, "expires")


def test_a_visibility_needs_no_tick(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    form = {"image": "21", "account": str(account.id), "visibility": "public"}
    alice = browser("alice")
    assert alice.post(NEW, form).status == 303
    assert fresh.store.tickets.list()[0].target["visibility"] == "public"
    page = alice.post(NEW, form | {"publicImage": "true", "visibility": "private"})
    assert page.status == 400
    assert "contradicts publicImage" in wrong(page, "visibility")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"properties": "os_distro"}, "'os_distro' is not of the form name=value"),
        ({"properties": "a=1\nowner=me"}, "'owner' is reserved"),
        ({"tags": "a\na"}, "'a' is given more than once"),
        ({"minDisk": "x"}, "'x' is not an integer"),
        ({"minDisk": "0"}, "0 GiB are too little"),
        ({"nameTemplate": "{day}"}, "'{day}' is unknown"),
        ({"nameTemplate": "{id}", "displayName": "x"}, "cannot be used together with displayName"),
    ],
)
def test_a_wrong_image_attribute_is_shown_at_its_field(
    fresh: Service, browser: Browsers, change: dict[str, str], words: str
) -> None:
    account = store_account(fresh)
    page = browser("alice").post(NEW, {"image": "21", "account": str(account.id), **change})
    field = next(iter(change))
    assert page.status == 400
    assert words in wrong(page, field)
    assert page.root.xpath("//details[@class='more']/@open") != []
    assert fresh.store.tickets.list() == []


def test_without_an_image_the_first_steps_are_shown(fresh: Service, browser: Browsers) -> None:
    fresh.store.users.add("newcomer", "x")
    visitor = browser()
    visitor.sign_in("newcomer", "x")
    for path in (NEW, "/publications"):
        page = visitor.get(path)
        assert page.links("Add account") == ["/console/accounts/new"]
        assert page.links("Add image") == ["/console/images/new"]
        assert "/console/publications/new" not in page.root.xpath("//main//a/@href")
    store_account(fresh, "newcomer")
    page = visitor.get(NEW)
    assert page.root.xpath("//li[contains(@class, 'done')]//h3/text()[1]") == ["Cloud account "]
    assert page.root.xpath("//a[contains(@class, 'primary')]/@href") == ["/console/images/new"]


def test_a_form_sent_twice_makes_one_ticket(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    page = str(alice.get(NEW).root.xpath("string(//input[@name='page']/@value)"))
    assert page
    form = {"image": "21", "account": "other", "platform": "openstack", "page": page, **INLINE}
    first, second = alice.post(NEW, form), alice.post(NEW, form)
    assert (second.status, second.location) == (303, first.location)
    assert len(fresh.store.tickets.list()) == 1
    # The user went back and changed the form: the page is shown again, with another key, for confirmation.
    changed = alice.post(NEW, form | {"displayName": "Another"})
    assert changed.status == 409
    another = str(changed.root.xpath("string(//input[@name='page']/@value)"))
    assert alice.post(NEW, form | {"displayName": "Another", "page": another}).status == 303
    assert [each.name for each in fresh.store.tickets.list()][1:] == ["Another"]
    # The new page's key differs from the old one.
    assert another != page


def test_production_mode_refuses_private_addresses(start: Callable[..., Service]) -> None:
    service = start(production=True)
    # Use https: in production mode the session cookie is sent over https only.
    alice = browse(service, "alice", url=HERE.replace("http:", "https:"))
    page = alice.post(NEW, {"image": "21", "account": "other", "platform": "openstack", **INLINE})
    assert page.status == 400
    assert "loopback" in wrong(page, "credAccount.keystoneUrl")
    assert service.store.tickets.list() == []
    stored = alice.post("/accounts/new", {"platform": "openstack", "name": "inner", **ACCOUNT})
    assert stored.status == 400
    assert "loopback" in wrong(stored, "keystoneUrl")


# Default values of the form ---------------------------------------------------------------------------------------


def filled(page: Page) -> dict[str, str]:
    """Return the values of the form, without those that it always has."""
    inputs = page.root.xpath("//form[@id='publication']//input[@value != '']")
    given = {each.get("name"): each.get("value") for each in inputs if each.get("type") not in ("hidden", "checkbox")}
    ticked = {each.get("name"): "true" for each in page.root.xpath("//input[@checked]")}
    chosen = page.root.xpath("//form[@id='publication']//select/option[@selected and @value != '']")
    return given | ticked | {each.getparent().get("name"): each.get("value") for each in chosen}


@pytest.mark.long
def test_the_target_of_the_account_s_last_use_is_filled_in(fresh: Service, browser: Browsers) -> None:
    lab, production = store_account(fresh, name="lab"), store_account(fresh)
    alice = browser("alice")
    where = {"keystoneDomain": "Default", "keystoneProject": "web", "publicImage": "true", "displayName": "First"}
    for project in ("old", "web"):
        alice.post(NEW, {"image": "21", "account": str(production.id), **where, "keystoneProject": project})
    alice.post(NEW, {"image": "21", "account": str(lab.id), "keystoneProject": "attic"})
    page = alice.get(f"{NEW}?account={production.id}&image=21")
    named = {name: value for name, value in where.items() if name != "displayName"}
    assert filled(page) == named | {"image": "21", "account": str(production.id)}, (
        "but for what another image is called"
    )
    body = json.loads(command(page)[command(page).index("-d") + 1])
    assert body["keystoneProject"] == "web", "the command has it, too"
    shown = {"show": "1", "shown": str(production.id), "image": "22", "displayName": "Kept", "keystoneProject": "typed"}
    page = alice.post(NEW, shown | {"account": str(lab.id)})
    kept = {"image": "22", "displayName": "Kept"}
    assert filled(page) == kept | {"account": str(lab.id), "keystoneProject": "attic"}
    assert filled(alice.post(NEW, shown | {"account": str(production.id)}))["keystoneProject"] == "typed"
    page = alice.post(NEW, shown | {"account": "other"})
    assert "keystoneProject" not in filled(page)


@pytest.mark.long
def test_a_ticket_can_be_published_again(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    alice = browser("alice")
    wanted = {"image": "22", "account": str(account.id), "displayName": "Nice", "keystoneProject": "web"}
    alice.post(NEW, wanted)
    (ticket,) = fresh.store.tickets.list()
    path = f"/console{NEW}?again={ticket.id}"
    assert alice.get(f"/publications/{ticket.id}").links("Publish again") == [], "it goes on"
    fresh.store.tickets.request_cancel(ticket.id)
    assert alice.get(f"/publications/{ticket.id}").links("Publish again") == [path]
    assert filled(alice.get(f"{NEW}?again={ticket.id}")) == wanted
    for id in ("999", "x", "9" * 30):
        assert alice.get(f"{NEW}?again={id}").status == 404
    assert browser("bob").get(f"{NEW}?again={ticket.id}").status == 404
    # The account is gone: the form is filled in with its values, but not with its password.
    fresh.store.accounts.remove("alice", account.id)
    page = alice.get(f"{NEW}?again={ticket.id}")
    assert filled(page).items() >= {"account": "other", "credAccount.login": "demo", "displayName": "Nice"}.items()
    assert SECRET not in page.text


def test_storing_an_account_leads_back_to_the_form(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    (link,) = alice.get(f"{NEW}?image=21").links("Store the account")
    form = alice.get(link.removeprefix("/console"))
    next = str(form.root.xpath("string(//input[@name='next']/@value)"))
    assert next == f"/console{NEW}?image=21"
    stored = {"platform": "openstack", "name": "lab", **ACCOUNT}
    answer = alice.post("/accounts/new", stored | {"next": next})
    (account,) = fresh.store.accounts.list()
    assert answer.location == f"/console{NEW}?image=21&account={account.id}"
    elsewhere = ("https://evil.example/", "//evil.example/console/", "/console//evil.example", "/api/status", "")
    for number, next in enumerate(elsewhere):
        answer = alice.post("/accounts/new", stored | {"name": f"n{number}", "next": next})
        assert answer.location == "/console/accounts", next


# Preflights -----------------------------------------------------------------------------------------------------------


def let_worker_find(service: Service, result: CheckResult) -> None:
    """Let a function answer checks in place of a worker."""

    def answer(check_id: int) -> None:
        claimed = service.store.checks.claim(check_id)
        assert claimed is not None
        service.store.checks.finish(claimed, result)

    service.waker.on_check = answer


@pytest.mark.long
def test_image_is_published_if_the_cloud_would_accept_it(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    let_worker_find(fresh, CheckResult(True, "works"))
    form = {"image": "21", "account": str(account.id), "preflight": "true", "page": "a-page"}
    answer = browser("alice").post(NEW, form)
    (ticket,) = fresh.store.tickets.list()
    assert (answer.status, answer.location) == (303, f"/console/publications/{ticket.id}")
    assert (len(fresh.waker.checks), fresh.waker.ids) == (1, [ticket.id])
    entry = fresh.store.audit.latest(1)[0]
    assert (entry.action, entry.actor.login, entry.actor.door) == ("ticket.create", "alice", "console")
    again = browser("alice").post(NEW, form)
    assert again.location == f"/console/publications/{ticket.id}", "a second click makes no second ticket"
    assert len(fresh.waker.checks) == 1


@pytest.mark.long
def test_what_the_preflight_finds_is_shown_at_its_field(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    words = "displayName: the project has an image of this name"
    let_worker_find(fresh, CheckResult(False, words, "displayName", Reason.REQUEST))
    form = {"image": "21", "account": str(account.id), "displayName": "Nice", "preflight": "true"}
    answer = browser("alice").post(NEW, form)
    assert answer.status == 400
    assert "the project has an image of this name; no ticket was created" in wrong(answer, "displayName")
    assert answer.root.xpath("//input[@name='preflight']/@checked")
    assert answer.root.xpath("//input[@name='displayName']/@value") == ["Nice"]
    assert (fresh.store.tickets.list(), fresh.waker.ids) == ([], [])


@pytest.mark.long
def test_a_cloud_that_does_not_answer_the_preflight_is_reported(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    away = CheckResult(False, "Keystone does not answer: timed out", reason=Reason.CONNECTION, transient=True)
    let_worker_find(fresh, away)
    answer = browser("alice").post(NEW, {"image": "21", "account": str(account.id), "preflight": "true"})
    assert (answer.status, "Keystone does not answer" in answer.words) == (503, True)
    assert fresh.store.tickets.list() == []


def test_a_preflight_needs_a_broker(fresh: Service, browser: Browsers) -> None:
    fresh.waker.break_down()
    account = store_account(fresh)
    answer = browser("alice").post(NEW, {"image": "21", "account": str(account.id), "preflight": "true"})
    assert (answer.status, "the message broker cannot be reached" in answer.words) == (503, True)
    assert fresh.store.tickets.list() == []


def test_form_that_is_wrong_is_shown_again_without_a_preflight(fresh: Service, browser: Browsers) -> None:
    answer = browser("alice").post(
        NEW, {"image": "21", "account": "other", "platform": "openstack", "preflight": "true"}
    )
    assert answer.status == 400
    assert fresh.waker.checks == []


def test_command_asks_for_the_preflight_too(fresh: Service, browser: Browsers) -> None:
    account = store_account(fresh)
    form = {"image": "21", "account": str(account.id), "preflight": "true"}
    assert browser("alice").post(f"{NEW}/command", form).text.endswith("/pimages?preflight=true'")
