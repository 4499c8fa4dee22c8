"""Application credentials, tokens and trusts of OpenStack in requests, in stored accounts and in answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lxml import etree

from publisher.core.vault import Vault
from tests.service import ACCOUNT, JSON, SECRET, XML, Service, json_body, xml_body

PATH = "users/root/appliances/4/pimages"
NO_LOGIN = {"account__login": None, "account__password": None}
KINDS: dict[str, dict[str, str]] = {
    "by id": {"applicationCredentialId": "4711", "applicationCredentialSecret": SECRET},
    "by name": {"applicationCredentialName": "ci", "login": "joe", "applicationCredentialSecret": SECRET},
    "token": {"token": SECRET},
    "trust": {"trustId": "0815", "login": "joe", "password": SECRET},
}
SECRETS = {"password", "applicationCredentialSecret", "token"}


def inline(form: str, given: dict[str, str]) -> str:
    write = json_body if form == JSON else xml_body
    changes: dict[str, Any] = {**NO_LOGIN, **{f"account__{name}": value for name, value in given.items()}}
    return write(**changes)


def to_store(given: dict[str, str]) -> bytes:
    account = {name: value for name, value in ACCOUNT.items() if name not in ("login", "password")}
    return json.dumps(account | given | {"name": "lab"}).encode()


@pytest.mark.parametrize("form", [JSON, XML])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_credential_is_read_and_its_secret_is_never_shown(fresh: Service, form: str, kind: str) -> None:
    given = KINDS[kind]
    made = fresh.post(PATH, inline(form, given), content_type=form, accept=JSON)
    assert made.status == 201, made.body
    plain = {name: value for name, value in given.items() if name not in SECRETS}
    assert {name: made.json["credAccount"].get(name) for name in plain} == plain
    (ticket,) = fresh.store.tickets.list()
    assert plain.items() <= ticket.account.items()
    assert ticket.sealed_secrets
    (secret,) = set(given) & SECRETS
    assert Vault.from_file(fresh.settings.key_file).open(ticket.sealed_secrets) == {secret: SECRET}
    for accept in (JSON, XML):
        shown = fresh.get(made.json["uri"], accept=accept)
        assert SECRET.encode() not in shown.body
        assert shown.status == 200
    names = {str(etree.QName(each).localname) for each in etree.fromstring(shown.body).iter()}
    assert not names & {"applicationCredentialId", "applicationCredentialName", "trustId"}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_account_publishes_with_its_credential(fresh: Service, kind: str) -> None:
    given = KINDS[kind]
    stored = fresh.post("users/root/accounts", to_store(given), content_type=JSON, accept=JSON)
    assert stored.status == 201, stored.body
    assert SECRET.encode() not in stored.body
    assert stored.json["secretsMissing"] is True
    assert fresh.post(PATH, json_body(credAccount={"name": "lab"}), content_type=JSON).status == 201
    (ticket,) = fresh.store.tickets.list()
    assert ticket.sealed_secrets
    (secret,) = set(given) & SECRETS
    assert Vault.from_file(fresh.settings.key_file).open(ticket.sealed_secrets) == {secret: SECRET}


def test_credential_can_be_changed_only_with_its_secret(fresh: Service) -> None:
    made = fresh.post("users/root/accounts", to_store(KINDS["by id"]), content_type=JSON, accept=JSON).json

    def change(**changes: Any) -> Any:
        return fresh.call("PUT", made["uri"], body=json.dumps(made | changes).encode(), content_type=JSON, accept=JSON)

    assert change(interface="internal").status == 200, "the kept secret is for the same application credential"
    refused = change(applicationCredentialId="4712")
    assert refused.status == 400
    assert refused.problem().startswith("applicationCredentialSecret: must be given again")
    assert change(applicationCredentialId="4712", applicationCredentialSecret="another").status == 200


def test_new_credential_of_another_kind_replaces_the_old_one(fresh: Service) -> None:
    made = fresh.post("users/root/accounts", to_store(KINDS["trust"]), content_type=JSON, accept=JSON).json
    for kind in ("by id", "by name", "token", "by id", "trust", "by name", "by id", "token"):
        body = json.dumps({"targetPlatform": ACCOUNT["targetPlatform"], **KINDS[kind]}).encode()
        changed = fresh.call("PUT", made["uri"], body=body, content_type=JSON, accept=JSON)
        assert changed.status == 200, changed.body
        expected = set(KINDS[kind]) - SECRETS
        assert set(changed.json) & {name for each in KINDS.values() for name in each} == expected
    echo = fresh.call("PUT", made["uri"], body=json.dumps(changed.json | KINDS["by id"]).encode(), content_type=JSON)
    assert echo.status == 200
    mixed = json.dumps(changed.json | KINDS["by id"] | {"login": "joe"}).encode()
    refused = fresh.call("PUT", made["uri"], body=mixed, content_type=JSON, accept=JSON)
    assert refused.problem().startswith("login: cannot be used together with applicationCredentialId")


@pytest.mark.parametrize("form", [JSON, XML])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token": SECRET, "password": SECRET}, "credAccount.token: cannot be used together with password; give one"),
        (dict.fromkeys(SECRETS, SECRET), "credAccount.applicationCredentialSecret: cannot be used together with pass"),
        ({"applicationCredentialSecret": SECRET}, "credAccount.applicationCredentialId: is needed with"),
        ({"applicationCredentialId": "4711"}, "credAccount.applicationCredentialSecret: is needed"),
        ({"token": SECRET, "login": "joe"}, "credAccount.login: cannot be used with token"),
        ({"trustId": "0815", "token": SECRET}, "credAccount.trustId: cannot be used with token"),
        ({}, "credAccount.login: is needed"),
    ],
)
def test_mixed_credentials_are_refused(fresh: Service, form: str, given: dict[str, str], message: str) -> None:
    refused = fresh.post(PATH, inline(form, given), content_type=form, accept=JSON)
    assert refused.status == 400
    assert refused.problem().startswith(message)
    assert SECRET not in refused.problem()
    assert not fresh.store.tickets.list()


PROXY = {"proxyUrl": "http://proxy.example.com:3128", "proxyLogin": "worker", "noProxy": "10.0.0.0/8"}


@pytest.mark.parametrize("form", [JSON, XML])
def test_proxy_of_an_account_is_read_and_its_password_is_never_shown(fresh: Service, form: str) -> None:
    given = {"login": "joe", "password": "hunter2-of-joe", "proxyPassword": SECRET} | PROXY
    made = fresh.post(PATH, inline(form, given), content_type=form, accept=JSON)
    assert made.status == 201, made.body
    assert {name: made.json["credAccount"].get(name) for name in PROXY} == PROXY
    (ticket,) = fresh.store.tickets.list()
    assert ticket.sealed_secrets
    opened = Vault.from_file(fresh.settings.key_file).open(ticket.sealed_secrets)
    assert opened == {"password": "hunter2-of-joe", "proxyPassword": SECRET}
    for accept in (JSON, XML):
        shown = fresh.get(made.json["uri"], accept=accept)
        assert SECRET.encode() not in shown.body
    names = {str(etree.QName(each).localname) for each in etree.fromstring(shown.body).iter()}
    assert not names & {"proxyUrl", "proxyLogin", "noProxy", "proxyPassword"}


def test_stored_account_gets_another_proxy_only_with_its_secrets(fresh: Service) -> None:
    given = {"login": "joe", "password": SECRET}
    made = fresh.post("users/root/accounts", to_store(given), content_type=JSON, accept=JSON).json
    for change in ({"proxyUrl": PROXY["proxyUrl"]}, PROXY):
        body = json.dumps(made | change).encode()
        refused = fresh.call("PUT", made["uri"], body=body, content_type=JSON, accept=JSON)
        assert (refused.status, refused.problem().partition(":")[0]) == (400, "password")
    body = json.dumps(made | PROXY | {"password": SECRET, "proxyPassword": SECRET}).encode()
    changed = fresh.call("PUT", made["uri"], body=body, content_type=JSON, accept=JSON)
    assert changed.status == 200, changed.body
    assert {name: changed.json[name] for name in PROXY} == PROXY
    assert SECRET.encode() not in changed.body


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proxyUrl": "https://proxy:3128"}, "credAccount.proxyUrl: the connection to the proxy itself cannot use TLS"),
        ({"noProxy": "*"}, "credAccount.noProxy: is used only together with proxyUrl"),
        ({"proxyUrl": "http://proxy:3128", "proxyLogin": "w"}, "credAccount.proxyPassword: is needed with proxyLogin"),
        ({"proxyUrl": "http://a:hunter2@proxy:3128"}, "credAccount.proxyUrl: must not hold a login or password"),
    ],
)
def test_wrong_proxy_of_an_account_is_a_400_that_names_the_element(
    fresh: Service, changes: dict[str, str], message: str
) -> None:
    given = {"login": "joe", "password": SECRET} | changes
    refused = fresh.post(PATH, inline(JSON, given), content_type=JSON, accept=JSON)
    assert refused.status == 400
    assert refused.problem().startswith(message)
    assert b"hunter2" not in refused.body
