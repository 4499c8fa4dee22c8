"""Stored cloud accounts: create, change and delete them, and publish with a reference to one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import Ticket
from publisher.core.vault import Vault
from publisher.intake.wire import reading
from tests.servers.certificates import authority
from tests.service import (
    ACCOUNT,
    JSON,
    SECRET,
    TARGET,
    UFORGE,
    XML,
    XSI,
    XSI_TYPE,
    Answer,
    Service,
    image_uri,
    json_body,
    ticket_path,
    xml_body,
)  # fmt: skip

ALICE = "users/alice/accounts"
NESTED = f"{image_uri(21)}/pimages"
FIELDS = {name: ACCOUNT[name] for name in ("glanceUrl", "keystoneUrl", "login", "keystoneVersion")}
OTHER_SECRET = f"another-{SECRET}"


def body(**changes: Any) -> str:
    made = {"@type": "CredAccountOpenStack", "name": "lab", **ACCOUNT} | changes
    return json.dumps({name: value for name, value in made.items() if value is not None})


def create(service: Service, *, login: str = "alice", **changes: Any) -> dict[str, Any]:
    answer = service.post(f"users/{login}/accounts", body(**changes), content_type=JSON, login=login, accept=JSON)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


def put(service: Service, path: str, document: dict[str, Any], *, login: str = "alice") -> Answer:
    return service.call("PUT", path, body=json.dumps(document).encode(), content_type=JSON, login=login, accept=JSON)


def sealed(service: Service, account: dict[str, Any], owner: str = "alice") -> dict[str, str]:
    stored = service.store.accounts.get(owner, account["dbId"])
    return Vault.from_file(service.settings.key_file).open(stored.sealed_secrets)


def secrets_of(service: Service, ticket: Ticket) -> dict[str, str]:
    assert ticket.sealed_secrets
    return Vault.from_file(service.settings.key_file).open(ticket.sealed_secrets)


# Create, get, list ------------------------------------------------------------------------------------------------


def test_created_account_hides_its_password(fresh: Service) -> None:
    answer = fresh.post(ALICE, body(), content_type=JSON, login="alice", accept=JSON)
    assert answer.status == 201
    made = answer.json
    assert list(made)[:2] == ["@type", "created"]
    assert made.pop("created") <= made.pop("lastModified"), "the database may read its clock twice"
    assert made.pop("digest")
    assert made == {
        "@type": "CredAccountOpenStack",
        "dbId": 1,
        "name": "lab",
        "parentUri": "users/alice",
        "uri": "users/alice/accounts/1",
        "targetPlatform": {"dbId": 101, "name": "openstack", "type": "openstack"},
        "secretsMissing": True,
        **FIELDS,
    }
    assert answer.headers["location"].endswith("/api/users/alice/accounts/1")
    assert sealed(fresh, made) == {"password": SECRET}


@pytest.mark.parametrize("told", ["type", "platform", "both"])
def test_account_is_created_from_xml(fresh: Service, told: str) -> None:
    target = "" if told == "type" else "<targetPlatform><name>OpenStack</name></targetPlatform>"
    attribute = "" if told == "platform" else f' xmlns:i="{XSI}" i:type="n:CredAccountOpenStack"'
    markup = f"{target}<name>lab</name><keystoneUrl>http://k</keystoneUrl><login>x</login><password>{SECRET}</password>"
    answer = fresh.post(ALICE, f'<n:credAccount xmlns:n="{UFORGE}"{attribute}>{markup}</n:credAccount>', login="alice")
    assert answer.status == 201, answer.body
    assert answer.xml.tag == f"{{{UFORGE}}}credAccount"
    assert answer.xml.get(XSI_TYPE, "").endswith(":CredAccountOpenStack")
    assert (answer.text("name"), answer.text("secretsMissing"), answer.text("password")) == ("lab", "true", None)
    assert SECRET.encode() not in answer.body


def test_get_and_list_return_the_created_accounts(fresh: Service) -> None:
    made = [create(fresh), create(fresh, name="prod", keystoneVersion=None)]
    create(fresh, login="bob")
    for each in made:
        answer = fresh.get(each["uri"], login="alice", accept=JSON)
        assert (answer.status, answer.json) == (200, each)
        again = fresh.get(each["uri"], login="alice", accept=JSON, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
    listed = fresh.get(ALICE, login="alice", accept=JSON).json
    assert listed == {"total": 2, "credAccounts": {"credAccount": made}}
    in_xml = fresh.get(ALICE, login="alice").xml
    assert [each.findtext("name") for each in in_xml.iterfind("credAccounts/credAccount")] == ["lab", "prod"]
    assert all(each.get(XSI_TYPE) for each in in_xml.iterfind("credAccounts/credAccount"))
    none = fresh.get("users/carol/accounts", login="carol", accept=JSON).json
    assert none == {"total": 0, "credAccounts": {"credAccount": []}}


def test_account_names_are_unique_per_user(fresh: Service) -> None:
    assert [create(fresh, name=None)["name"] for _ in range(3)] == ["openstack", "openstack-2", "openstack-3"]
    assert create(fresh, name="  padded ")["name"] == "padded"
    taken = fresh.post(ALICE, body(name="openstack"), content_type=JSON, login="alice")
    assert taken.status == 409
    assert "'openstack' already" in taken.problem()
    create(fresh, login="bob", name="openstack")


WRONG = [
    ({"keystoneUrl": None}, "keystoneUrl: is needed"),
    ({"login": None}, "login: is needed"),
    ({"password": None}, "password: is needed"),
    ({"keystoneUrl": "ftp://x"}, "keystoneUrl: must be an address"),
    ({"keystoneUrl": "http://a:b@x"}, "keystoneUrl: must not hold"),
    ({"glanceUrl": "x y"}, "glanceUrl: is not a valid"),
    ({"keystoneVersion": "v4"}, "keystoneVersion: 'v4' is unknown"),
    ({"login": "x" * 256}, "login: is longer"),
    ({"name": "x" * 256}, "name: "),
    ({"name": "a\0b"}, "name: "),
    ({"@type": "CredAccountAws"}, "targetPlatform.name: 'aws' is not supported here"),
    ({"@type": "CredAccountNimbus"}, "@type: "),
    ({"@type": None, "targetPlatform": None}, "targetPlatform.name: is needed"),
    ({"@type": None, "targetPlatform": {"type": "memory"}, "login": 7}, "login: "),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_invalid_account_is_refused(service: Service, changes: dict[str, Any], words: str) -> None:
    if changes.get("@type", "") != "CredAccountOpenStack":
        changes = {"targetPlatform": None} | changes
    answer = service.post(ALICE, body(**changes), content_type=JSON, login="alice", accept=JSON)
    assert answer.status == 400, answer.body
    assert answer.problem().startswith(words)
    assert SECRET.encode() not in answer.body
    assert service.store.accounts.list("alice") == []


def test_keystone_v2_account_needs_a_project_only_to_publish(fresh: Service) -> None:
    made = create(fresh, keystoneVersion="v2.0")
    refused = fresh.post(
        NESTED, json_body(None, credAccount={"dbId": made["dbId"]}, keystoneProject=None), content_type=JSON,
        login="alice",
    )  # fmt: skip
    assert refused.status == 400
    assert refused.problem().startswith("tenantName: ")


# Change, delete ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"login": "demo", "password": ""},
        {"name": "renamed"},
        {"targetPlatform": {"name": "My cloud"}, "name": "lab", "keystoneVersion": "v2.0"},
        {"@type": "CredAccountOpenStack", "keystoneVersion": "v2.0"},
        {"keystoneUrl": FIELDS["keystoneUrl"], "dbId": 1, "uri": "users/alice/accounts/1"},
        {},
    ],
)
def test_change_keeps_omitted_values(fresh: Service, given: dict[str, Any]) -> None:
    made = create(fresh)
    answer = put(fresh, made["uri"], given)
    assert answer.status == 200, answer.body
    changed = answer.json
    for name in ("name", *FIELDS):
        assert changed[name] == given.get(name, made[name])
    assert fresh.get(made["uri"], login="alice", accept=JSON).json == changed
    assert (changed["created"], changed["dbId"]) == (made["created"], made["dbId"])
    assert sealed(fresh, made) == {"password": SECRET}


@pytest.mark.parametrize(
    "given",
    [
        {"keystoneUrl": "http://elsewhere"},
        {"glanceUrl": "http://elsewhere"},
        {"login": "other"},
        {"caBundle": "of another authority"},
        {"keystoneUrl": "http://elsewhere", "password": ""},
    ],
)
def test_changed_address_or_login_requires_the_secret_again(
    fresh: Service, given: dict[str, Any], tmp_path: Path
) -> None:
    if "caBundle" in given:
        given = {"caBundle": authority(tmp_path).pem}
    made = create(fresh)
    answer = put(fresh, made["uri"], given)
    assert answer.status == 400
    assert answer.problem() == "password: must be given again, because the address or the login changes"
    assert fresh.get(made["uri"], login="alice", accept=JSON).json == made
    assert put(fresh, made["uri"], given | {"password": OTHER_SECRET}).status == 200
    assert sealed(fresh, made) == {"password": OTHER_SECRET}


def test_secret_can_be_changed_alone(fresh: Service) -> None:
    made = create(fresh)
    changed = put(fresh, made["uri"], {"password": OTHER_SECRET})
    assert changed.status == 200
    assert OTHER_SECRET.encode() not in changed.body
    assert sealed(fresh, made) == {"password": OTHER_SECRET}
    assert changed.json["digest"] != made["digest"]


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"name": "prod"}, 409, "there is an account 'prod' already"),
        ({"keystoneUrl": "ftp://x"}, 400, "keystoneUrl: "),
        ({"keystoneVersion": "3"}, 400, "keystoneVersion: "),
        ({"dbId": 2}, 400, "dbId: "),
        ({"uri": "users/alice/accounts/2"}, 400, "uri: "),
        ({"uri": "users/bob/accounts/1"}, 400, "uri: "),
        ({"uri": "nonsense"}, 400, "uri: "),
        ({"@type": "CredAccountMemory"}, 400, "targetPlatform.name: account 1 is for openstack"),
        ({"targetPlatform": {"type": "memory"}}, 400, "targetPlatform.name: account 1 is for openstack"),
    ],
)
def test_invalid_change_is_refused(fresh: Service, given: dict[str, Any], status: int, words: str) -> None:
    made = create(fresh)
    create(fresh, name="prod")
    answer = put(fresh, made["uri"], given)
    assert answer.status == status
    assert answer.problem().startswith(words)
    assert fresh.get(made["uri"], login="alice", accept=JSON).json == made


def test_deleted_account_is_gone_and_its_id_is_not_reused(fresh: Service) -> None:
    made = create(fresh)
    deleted = fresh.call("DELETE", made["uri"], login="alice")
    assert (deleted.status, deleted.body) == (204, b"")
    for method in ("GET", "DELETE"):
        assert fresh.call(method, made["uri"], login="alice").status == 404
    assert create(fresh)["dbId"] != made["dbId"]


# Publish ----------------------------------------------------------------------------------------------------------

REFERENCES = [
    ("dbId",),
    ("uri",),
    ("name",),
    ("dbId", "uri"),
    ("dbId", "name"),
    ("uri", "name"),
    ("dbId", "uri", "name"),
]


@pytest.fixture(scope="module")
def lab(service: Service) -> dict[str, Any]:
    """An account of Alice that tests only refer to. Bob has one, too."""
    create(service, name="first", login="bob")
    return create(service)


@pytest.mark.parametrize("kind", [XML, JSON])
@pytest.mark.parametrize("platform", [None, {"name": "openstack"}, {"name": "My cloud"}])
@pytest.mark.parametrize("by", REFERENCES, ids="+".join)
def test_publish_by_reference_uses_the_stored_account(
    service: Service, lab: dict[str, Any], by: tuple[str, ...], platform: Any, kind: str
) -> None:
    made = lab
    reference = {name: made[name] for name in by} | ({"targetPlatform": platform} if platform else {})
    asked = (xml_body if kind == XML else json_body)(None, credAccount=reference)
    answer = service.post(NESTED, asked, content_type=kind, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    told = answer.json
    assert told["@type"] == "PublishImageOpenStack"
    assert {name: told[name] for name in TARGET} == TARGET, "no element of the platform is lost"
    ticket = service.ticket(told["dbId"])
    assert told["credAccount"] == {
        name: value for name, value in made.items() if name not in ("created", "digest", "lastModified")
    } | {"uri": f"{ticket_path(ticket)}/accounts/{made['dbId']}"}
    assert ticket.account_id == made["dbId"]
    assert ticket.account == FIELDS | {"name": "lab"}
    assert secrets_of(service, ticket) == {"password": SECRET}
    assert service.get(ticket_path(ticket), login="alice", accept=JSON).json["credAccount"] == told["credAccount"]


@pytest.mark.parametrize("kind", [XML, JSON])
def test_the_body_is_parsed_once(fresh: Service, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create(fresh)
    name = "parse_xml" if kind == XML else "parse_json"
    parses: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        parses.append(kind)
        return parse(*arguments, **options)

    parse = getattr(reading, name)
    monkeypatch.setattr(reading, name, counted)
    asked = (xml_body if kind == XML else json_body)(None, credAccount={"dbId": made["dbId"]})
    assert fresh.post(NESTED, asked, content_type=kind, login="alice").status == 201
    assert len(parses) == 1


@pytest.mark.parametrize("kind", [XML, JSON])
def test_listed_account_document_is_accepted_for_publishing(fresh: Service, kind: str) -> None:
    create(fresh)
    if kind == JSON:
        listed = fresh.get(ALICE, login="alice", accept=JSON).json["credAccounts"]["credAccount"][0]
        asked = json.dumps({"@type": "PublishImageOpenStack", **TARGET, "credAccount": listed})
    else:
        document = fresh.get(ALICE, login="alice").body.decode()
        inner = document.partition("<credAccounts>")[2].partition("</credAccounts>")[0]
        prefix = inner.partition(':type="')[2].partition(":")[0]
        rest = "".join(f"<{name}>{str(value).lower()}</{name}>" for name, value in TARGET.items())
        asked = (
            f'<{prefix}:publishImage xmlns:{prefix}="{UFORGE}" xmlns:xsi="{XSI}"'
            f' xsi:type="{prefix}:PublishImageOpenStack">{rest}{inner}</{prefix}:publishImage>'
        )
    answer = fresh.post(NESTED, asked, content_type=kind, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    ticket = fresh.ticket(answer.json["dbId"])
    assert (ticket.account_id, ticket.account) == (1, FIELDS | {"name": "lab"})
    assert secrets_of(fresh, ticket) == {"password": SECRET}


def test_inline_values_override_the_stored_account(fresh: Service) -> None:
    made = create(fresh)
    inline = {"dbId": made["dbId"], "@type": "CredAccountOpenStack", "login": "other"}
    fields = FIELDS | {"login": "other", "name": "lab"}
    for given, secret in (
        (inline, SECRET),
        (inline | {"password": ""}, SECRET),
        (inline | {"password": OTHER_SECRET}, OTHER_SECRET),
    ):
        ticket = _publish(fresh, given)
        assert (ticket.account, ticket.account_id) == (fields, made["dbId"])
        assert secrets_of(fresh, ticket) == {"password": secret}
    assert sealed(fresh, made) == {"password": SECRET}
    assert fresh.get(made["uri"], login="alice", accept=JSON).json == made


def _publish(service: Service, account: dict[str, Any]) -> Ticket:
    answer = service.post(NESTED, json_body(None, credAccount=account), content_type=JSON, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    return service.ticket(answer.json["dbId"])


def test_complete_inline_account_with_a_name_is_no_reference(fresh: Service) -> None:
    ticket = _publish(fresh, ACCOUNT | {"name": "anything"})
    assert (ticket.account_id, ticket.account) == (None, FIELDS)
    shown = fresh.get(ticket_path(ticket), login="alice", accept=JSON).json["credAccount"]
    assert not {"dbId", "uri", "name"} & set(shown)


@pytest.mark.parametrize("inline", [{}, ACCOUNT])
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"dbId": 999}, "credAccount: refers to a stored account that does not exist"),
        ({"dbId": 0}, "credAccount: refers"),
        ({"dbId": 2}, "credAccount: refers"),
        ({"uri": "users/alice/accounts/999"}, "credAccount: refers"),
        ({"uri": "users/alice/accounts/2"}, "credAccount: refers"),
        ({"uri": "users/bob/accounts/2"}, "credAccount: refers"),
        ({"uri": "users/bob/accounts/1"}, "credAccount: refers"),
        ({"uri": "users/alice/appliances/1"}, "credAccount.uri: "),
        ({"dbId": 1, "uri": "users/alice/accounts/3"}, "credAccount.uri: names another account than the dbId, 1"),
        ({"dbId": 1, "uri": "users/bob/accounts/2"}, "credAccount: refers"),
        ({"dbId": 1, "name": "prod"}, "credAccount.name: "),
        ({"uri": "users/alice/accounts/1", "name": "unknown"}, "credAccount.name: "),
        ({"dbId": 4, "@type": "CredAccountOpenStack"}, "credAccount: 'demo' is an account of memory"),
    ],
)
def test_invalid_reference_is_refused(
    fresh: Service, reference: dict[str, Any], words: str, inline: dict[str, Any]
) -> None:
    create(fresh)
    create(fresh, login="bob", name="bobs")
    create(fresh, name="prod")
    of_memory: dict[str, Any] = {"@type": "CredAccountMemory", "targetPlatform": {"name": "memory"}}
    create(fresh, name="demo", **of_memory)
    asked = json_body(None, credAccount={**inline, **reference})
    answer = fresh.post(NESTED, asked, content_type=JSON, login="alice", accept=JSON)
    assert answer.status == 400, answer.body
    assert answer.problem().startswith(words)
    assert fresh.store.tickets.list() == []


@pytest.mark.parametrize("name", ["bobs", "LAB", "nothing"])
def test_reference_by_unknown_name_is_refused(fresh: Service, name: str) -> None:
    create(fresh)
    create(fresh, login="bob", name="bobs")
    asked = json_body(None, credAccount={"name": name, "targetPlatform": {"dbId": 101, "name": "openstack"}})
    answer = fresh.post(NESTED, asked, content_type=JSON, login="alice")
    assert answer.status == 400
    assert answer.problem().startswith("credAccount: refers to a stored account")


def test_administrator_publishes_with_accounts_of_the_user_in_the_path(fresh: Service) -> None:
    create(fresh, login="root", name="roots")
    made = create(fresh)
    for reference, status in (({"name": "roots"}, 400), ({"dbId": made["dbId"]}, 201)):
        asked = json_body(None, credAccount=reference)
        assert fresh.post(NESTED, asked, content_type=JSON, login="root").status == status


# The account of a ticket ------------------------------------------------------------------------------------------


def test_account_of_a_ticket_is_unaffected_by_later_changes(fresh: Service) -> None:
    made = create(fresh)
    ticket = _publish(fresh, {"dbId": made["dbId"]})
    path = f"{ticket_path(ticket)}/accounts/{made['dbId']}"
    before = fresh.get(path, login="alice", accept=JSON)
    assert before.status == 200
    assert before.json == fresh.get(ticket_path(ticket), login="alice", accept=JSON).json["credAccount"]
    assert fresh.get(path, login="alice").text("uri") == path, "to be read there, whatever becomes of the account"
    echoed = fresh.post(NESTED, json_body(None, credAccount=before.json), content_type=JSON, login="alice", accept=JSON)
    assert echoed.json["credAccount"]["dbId"] == made["dbId"], "it is understood as it was told"
    assert put(fresh, made["uri"], {"login": "other", "name": "renamed", "password": OTHER_SECRET}).status == 200
    assert fresh.get(path, login="alice", accept=JSON).json == before.json
    assert fresh.call("DELETE", made["uri"], login="alice").status == 204
    assert fresh.get(path, login="alice", accept=JSON).json == before.json
    assert fresh.get(ticket_path(ticket), login="alice", accept=JSON).json["credAccount"] == before.json
    assert secrets_of(fresh, fresh.ticket(ticket.id)) == {"password": SECRET}
    listed = fresh.get("users/alice/pimages", login="alice", accept=JSON).json["publishImages"]["publishImage"]
    assert listed[0]["credAccount"] == before.json
    assert len(listed) == 2


def test_only_owner_and_administrator_see_the_account_of_a_ticket(fresh: Service) -> None:
    made, second = create(fresh), create(fresh, name="second")
    with_account, without = _publish(fresh, {"dbId": made["dbId"]}), _publish(fresh, ACCOUNT)
    path = f"{ticket_path(with_account)}/accounts/{made['dbId']}"
    for login, status in ((None, 401), ("bob", 404), ("carol", 404), ("root", 200), ("alice", 200)):
        assert fresh.get(path, login=login).status == status
    for wrong in (
        f"{ticket_path(with_account)}/accounts/{second['dbId']}",
        f"{ticket_path(with_account)}/accounts/0",
        f"{ticket_path(without)}/accounts/{made['dbId']}",
        path.replace("images/21", "images/23"),
    ):
        assert fresh.get(wrong, login="alice").status == 404


def test_no_answer_shows_a_secret(fresh: Service) -> None:
    made = create(fresh)
    ticket = _publish(fresh, {"dbId": made["dbId"]})
    paths = (ALICE, made["uri"], ticket_path(ticket), f"{ticket_path(ticket)}/accounts/1", "users/alice/pimages")
    for path in paths:
        for accept in (XML, JSON):
            answer = fresh.get(path, login="alice", accept=accept)
            assert answer.status == 200
            assert SECRET.encode() not in answer.body
            assert b"password" not in answer.body
    stored = fresh.store.accounts.get("alice", 1)
    assert SECRET not in repr(stored)
    assert SECRET.encode() not in stored.sealed_secrets
