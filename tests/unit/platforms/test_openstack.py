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
    platform_of(platform).check_target(LOGIN, PROJECT | {"store": "fast", "importMethod": "glance-direct"})


@pytest.mark.parametrize("target", [PROJECT, PROJECT | {"sharedWith": []}, PROJECT | {"visibility": "community"}])
def test_waiting_for_acceptance_needs_projects_to_share_with(target: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="waitForAcceptance: is used only together with sharedWith; leave it out"):
        OPENSTACK.check_target(LOGIN, target | {"waitForAcceptance": True})
    OPENSTACK.check_target(LOGIN, target | {"waitForAcceptance": False})
    OPENSTACK.check_target(LOGIN, PROJECT | {"sharedWith": ["lab"], "waitForAcceptance": True})


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


PROXY = LOGIN | {"proxyUrl": "http://proxy.example.com:3128"}


@pytest.mark.parametrize(
    ("account", "secrets"),
    [
        (PROXY, {PASSWORD}),
        (PROXY | {"proxyLogin": "worker"}, {PASSWORD, "proxyPassword"}),
        (PROXY | {"noProxy": "10.0.0.0/8, .lab.example.com"}, {PASSWORD}),
        (PROXY | {"proxyUrl": "http://[2001:db8::1]:3128/"}, {PASSWORD}),
        (URL | {"proxyUrl": "http://proxy:3128", "proxyLogin": "w"}, {TOKEN, "proxyPassword"}),
    ],
)
def test_proxy_of_an_account_is_accepted(account: dict[str, Any], secrets: set[str]) -> None:
    check_request("openstack", account, secrets, PROJECT)
    check_request("openstack", account, OPENSTACK.sealed_names, PROJECT)
    assert "credAccount.proxyUrl" in OPENSTACK.account_addresses(account)
    assert cloud_account("openstack", account, PROJECT) == cloud_account(
        "openstack", {name: value for name, value in account.items() if "roxy" not in name}, PROJECT
    ), "the same account of the same cloud"


@pytest.mark.parametrize(
    ("account", "secrets", "message"),
    [
        (PROXY | {"proxyUrl": "proxy:3128"}, {PASSWORD}, "credAccount.proxyUrl: must be an address"),
        (PROXY | {"proxyUrl": "http://me:pw@proxy:3128"}, {PASSWORD}, "credAccount.proxyUrl: must not hold a login"),
        (PROXY | {"proxyUrl": "https://proxy:3128"}, {PASSWORD}, "credAccount.proxyUrl: the connection to the proxy"),
        (PROXY | {"proxyUrl": "http://proxy"}, {PASSWORD}, "credAccount.proxyUrl: it needs a host and a port"),
        (PROXY | {"proxyUrl": "http://proxy:3128/x"}, {PASSWORD}, "credAccount.proxyUrl: nothing may follow the port"),
        (PROXY | {"proxyLogin": "w"}, {PASSWORD}, "credAccount.proxyPassword: is needed with proxyLogin"),
        (PROXY, {PASSWORD, "proxyPassword"}, "credAccount.proxyLogin: is needed with proxyPassword"),
        (PROXY | {"proxyLogin": "a:b"}, {PASSWORD, "proxyPassword"}, "credAccount.proxyLogin: cannot contain a colon"),
        (PROXY | {"noProxy": "10.0.0.1/8"}, {PASSWORD}, "credAccount.noProxy: give hosts, domains"),
        (LOGIN | {"noProxy": "*"}, {PASSWORD}, "credAccount.noProxy: is used only together with proxyUrl"),
        (LOGIN | {"proxyLogin": "w"}, {PASSWORD}, "credAccount.proxyLogin: is used only together with proxyUrl"),
        (LOGIN, {PASSWORD, "proxyPassword"}, "credAccount.proxyPassword: is used only together with proxyUrl"),
        (PROXY | {"proxyLogin": "w"}, {"proxyPassword"}, "credAccount.password: is needed to publish to openstack"),
    ],
)
def test_wrong_proxy_of_an_account_is_refused(account: dict[str, Any], secrets: set[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_request("openstack", account, secrets, PROJECT)
    assert str(raised.value).startswith(message)
    assert "pw" not in str(raised.value)


def test_password_of_the_proxy_alone_replaces_no_credential() -> None:
    assert OPENSTACK.replaced({}, {"proxyPassword"}) == set()
