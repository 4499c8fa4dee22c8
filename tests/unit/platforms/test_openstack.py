"""The credentials of an account of OpenStack: which elements belong together, and whose account it is."""

from __future__ import annotations

from typing import Any

import pytest

from publisher.core.errors import InvalidRequest
from publisher.platforms.openstack import OPENSTACK
from publisher.platforms.platform import check_request, cloud_account, platform_of

URL = {"keystoneUrl": "https://cloud.example.com:5000"}
LOGIN = URL | {"login": "joe"}
BY_ID = URL | {"applicationCredentialId": "4711"}
BY_NAME = LOGIN | {"applicationCredentialName": "ci"}
TRUST = LOGIN | {"trustId": "0815"}
SECRET, PASSWORD, TOKEN = "applicationCredentialSecret", "password", "token"
PROJECT = {"keystoneProject": "p"}


@pytest.mark.parametrize(
    ("account", "secret", "target"),
    [
        (LOGIN, PASSWORD, {}),
        (TRUST, PASSWORD, {}),
        (BY_ID, SECRET, {}),
        (BY_ID | {"login": "", "userDomain": "lab"}, SECRET, PROJECT),
        (BY_NAME, SECRET, {}),
        (BY_NAME | {"userDomain": "lab"}, SECRET, {}),
        (URL, TOKEN, PROJECT),
        (URL | {"keystoneUrl": "https://cloud.example.com/identity/v3/"}, TOKEN, PROJECT),
    ],
)
def test_each_kind_of_credential_is_accepted(account: dict[str, Any], secret: str, target: dict[str, Any]) -> None:
    check_request("openstack", account, {secret}, target)
    check_request("openstack", account, OPENSTACK.sealed_names, target)


@pytest.mark.parametrize(
    ("account", "secrets", "message"),
    [
        (URL, set(), "credAccount.login: is needed to publish to openstack"),
        (LOGIN, set(), "credAccount.password: is needed to publish to openstack"),
        (BY_ID, set(), "credAccount.applicationCredentialSecret: is needed to publish to openstack"),
        (LOGIN, {PASSWORD, TOKEN}, "credAccount.token: cannot be used together with password; give one of them"),
        (BY_ID, {TOKEN, SECRET}, "credAccount.token: cannot be used together with applicationCredentialSecret"),
        (URL, OPENSTACK.secret_names, "credAccount.applicationCredentialSecret: cannot be used together with password"),
        (
            BY_ID,
            {PASSWORD},
            "credAccount.applicationCredentialId: cannot be used with password, only with applicationCredentialSecret",
        ),
        (LOGIN, {TOKEN}, "credAccount.login: cannot be used with token, only with password or applicationCredential"),
        (TRUST, {TOKEN}, "credAccount.login: cannot be used with token"),
        (URL | {"trustId": "1"}, {TOKEN}, "credAccount.trustId: cannot be used with token, only with password"),
        (BY_NAME | {"trustId": "1"}, {SECRET}, "credAccount.trustId: cannot be used with applicationCredentialSecret"),
        (LOGIN, {SECRET}, "credAccount.applicationCredentialId: is needed with applicationCredentialSecret; or give"),
        (URL, {SECRET}, "credAccount.applicationCredentialId: is needed with applicationCredentialSecret; or give"),
        (BY_NAME | {"login": ""}, {SECRET}, "credAccount.login: is needed with applicationCredentialName"),
        (BY_ID | BY_NAME, {SECRET}, "credAccount.applicationCredentialName: cannot be used together with application"),
        (BY_ID | LOGIN, {SECRET}, "credAccount.login: cannot be used together with applicationCredentialId"),
        (BY_ID | {"keystoneVersion": "v2.0"}, {SECRET}, "credAccount.applicationCredentialSecret: cannot be used with"),
        (TRUST | {"keystoneVersion": "v2.0"}, {PASSWORD}, "credAccount.trustId: cannot be used with Keystone v2.0"),
        (URL | {"keystoneUrl": "http://cloud/v2.0/"}, {TOKEN}, "credAccount.token: cannot be used with Keystone v2.0"),
        (URL, {TOKEN}, "keystoneProject: is needed with credAccount.token: the token's project"),
        (BY_ID | {"applicationCredentialId": "x" * 256}, {SECRET}, "credAccount.applicationCredentialId: is longer"),
        (TRUST | {"trustId": "a\nb"}, {PASSWORD}, "credAccount.trustId: "),
    ],
)
def test_mixed_or_incomplete_credentials_are_refused(account: dict[str, Any], secrets: set[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_request("openstack", account, secrets, {})
    assert str(raised.value).startswith(message)
    assert raised.value.field == message.partition(":")[0]


@pytest.mark.parametrize("method", ["copy-image", "Glance-Direct", "web-download "])
def test_import_method_that_is_unknown_is_refused(method: str) -> None:
    with pytest.raises(InvalidRequest, match=r"importMethod: .* is unknown; use one of glance-direct, web-download"):
        check_request("openstack", LOGIN, {PASSWORD}, PROJECT | {"importMethod": method})


@pytest.mark.parametrize("platform", ["openstack", "susecloud", "cloudwatt"])
def test_store_and_import_method_are_elements_of_each_openstack(platform: str) -> None:
    fields = {field.name for field in platform_of(platform).target_fields}
    assert {"store", "importMethod"} <= fields
    check_request(platform, LOGIN, {PASSWORD}, PROJECT | {"store": "fast", "importMethod": "glance-direct"})


def test_token_of_a_stored_account_needs_the_project_too() -> None:
    with pytest.raises(InvalidRequest, match="keystoneProject: is needed with credAccount"):
        check_request("openstack", URL, OPENSTACK.sealed_names, {})


def test_accounts_with_different_credentials_are_distinct() -> None:
    other = [
        BY_ID | {"applicationCredentialId": "4712"},
        BY_NAME | {"applicationCredentialName": "cd"},
        BY_NAME | {"userDomain": "lab"},
        TRUST | {"trustId": "0816"},
    ]
    accounts = [URL, LOGIN, BY_ID, BY_NAME, TRUST, *other]
    assert len({cloud_account("openstack", each, PROJECT) for each in accounts}) == len(accounts)


@pytest.mark.parametrize(
    ("account", "secret", "who"),
    [
        (LOGIN, PASSWORD, "joe"),
        (TRUST, PASSWORD, "joe"),
        (BY_ID, SECRET, "application credential 4711"),
        (BY_NAME, SECRET, "application credential ci"),
        (URL, TOKEN, "owner of a token"),
    ],
)
def test_elements_tell_the_secret_and_who_signs_in(account: dict[str, Any], secret: str, who: str) -> None:
    assert OPENSTACK.main_secret(account) == secret
    assert OPENSTACK.signs_in_as(account) == who
