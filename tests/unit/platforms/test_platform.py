"""A request is checked before any worker sees it, and the error names the invalid element."""

import logging
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from memory_cloud.platform import PLATFORM
from publisher.core.errors import InvalidRequest
from publisher.platforms import platform as module
from publisher.platforms.platform import (
    Kind,
    check_request,
    cloud_account,
    find_platform,
    installed,
    known_platforms,
    platform_of,
)
from publisher.platforms.target_formats import API_ORDER, API_PLATFORMS

GOOD: dict[str, Any] = {"keystoneUrl": "https://cloud.example.com:5000", "login": "me"}
SECRET = {"password": "x"}


def test_package_declares_only_product_platforms() -> None:
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["entry-points"]
    groups = {name: set(entries) for name, entries in declared.items()}
    assert groups == {module.PLUGIN_GROUP: {"openstack"}, module.PLATFORM_GROUP: API_PLATFORMS}


def test_api_platforms_come_first_in_api_order() -> None:
    names = [each.name for each in known_platforms()]
    assert names == [*API_ORDER, "memory"]


def test_installed_package_adds_its_platform() -> None:
    assert installed() == ("memory", "openstack")
    assert find_platform("memory") is PLATFORM
    assert platform_of("memory") is PLATFORM
    assert find_platform("nimbus") is None
    assert (platform_of("nimbus").name, platform_of("nimbus").account_fields) == ("nimbus", ())


def test_unusable_platform_is_left_out_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other platforms stay available."""
    places = {
        "aws": "memory_cloud.platform:PLATFORM",
        "absent": "no_such_module:PLATFORM",
        "another": "memory_cloud.platform:PLATFORM",
        "something": "publisher.platforms.platform:installed",
        "memory": "memory_cloud.platform:PLATFORM",
    }
    found = [EntryPoint(name, place, module.PLATFORM_GROUP) for name, place in places.items()]
    monkeypatch.setattr(module, "entry_points", lambda group: found)
    with caplog.at_level(logging.ERROR):
        assert module.known_platforms.__wrapped__() == (PLATFORM,)
    for name in ("aws", "absent", "another", "something"):
        assert f"the platform '{name}'" in caplog.text


@pytest.mark.parametrize("name", ["aws", "azure", "google", "memory"])
def test_accounts_with_different_fields_are_distinct(name: str) -> None:
    """Each account has its own upload limit and is swept separately."""
    platform = platform_of(name)
    plain = [each.name for each in platform.account_fields if not each.secret and each.kind is Kind.STRING]
    for field in plain:
        one, other = cloud_account(name, {field: "1"}, {}), cloud_account(name, {field: "2"}, {})
        assert one != other, field
    secret = dict.fromkeys(platform.secret_names, "x")
    assert cloud_account(name, secret, {}) == cloud_account(name, {}, {}), "a new secret is the same account"


@pytest.mark.parametrize(
    ("account", "target"),
    [
        (GOOD, {}),
        (GOOD | {"keystoneUrl": "http://10.0.0.1/identity/v3"}, {}),
        (GOOD | {"keystoneUrl": "http://[::1]:5000/v3"}, {}),
        (GOOD | {"glanceUrl": ""}, {}),
        (GOOD | {"glanceUrl": "https://glance.example.com:9292/"}, {}),
        (GOOD | {"keystoneVersion": "v3"}, {"keystoneDomain": "d", "keystoneProject": "p"}),
        (GOOD | {"keystoneVersion": "v2.0"}, {"tenantName": "t"}),
        (GOOD | {"keystoneVersion": "v2.0"}, {"keystoneProject": "t"}),
        (GOOD, {"displayName": "x" * 255}),
        (GOOD | {"userDomain": "people", "interface": "internal"}, {"keystoneDomain": "lab"}),
    ],
)
def test_valid_request_is_accepted(account: dict[str, Any], target: dict[str, Any]) -> None:
    check_request("openstack", account, SECRET, target)


@pytest.mark.parametrize(
    ("account", "target", "field"),
    [
        ({"login": "me"}, {}, "credAccount.keystoneUrl"),
        ({"keystoneUrl": "http://k"}, {}, "credAccount.login"),
        (GOOD | {"login": ""}, {}, "credAccount.login"),
        (GOOD | {"keystoneUrl": "cloud.example.com"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "ftp://cloud.example.com"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "file:///etc/passwd"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://:5000"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://cloud:port"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://cloud:99999"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://[::1"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"keystoneUrl": "http://me:pw@cloud:5000"}, {}, "credAccount.keystoneUrl"),
        (GOOD | {"glanceUrl": "http://me@cloud:9292"}, {}, "credAccount.glanceUrl"),
        (GOOD | {"glanceUrl": "glance"}, {}, "credAccount.glanceUrl"),
        (GOOD | {"keystoneVersion": "v4"}, {}, "credAccount.keystoneVersion"),
        (GOOD | {"keystoneVersion": "v2.0"}, {}, "tenantName"),
        (GOOD, {"displayName": "x" * 256}, "displayName"),
        (GOOD | {"userDomain": "x" * 256}, {}, "credAccount.userDomain"),
        (GOOD | {"interface": "outer"}, {}, "credAccount.interface"),
        (GOOD | {"keystoneUrl": "http://cloud:5000/\x00"}, {}, "credAccount.keystoneUrl"),
    ],
)
def test_error_for_an_invalid_request_names_the_field(
    account: dict[str, Any], target: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_request("openstack", account, SECRET, target)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")
    assert "pw" not in str(raised.value)


def test_missing_password_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"credAccount\.password: is needed to publish to openstack"):
        check_request("openstack", GOOD, {}, {})


@pytest.mark.parametrize("platform", ["", "nimbus", "OpenStack"])
def test_error_for_an_unknown_platform_lists_the_supported_ones(platform: str) -> None:
    with pytest.raises(InvalidRequest, match=r"supported are .*openstack") as raised:
        check_request(platform, GOOD, SECRET, {})
    assert raised.value.field == "credAccount.targetPlatform.name"


def test_accounts_with_different_user_domains_are_distinct() -> None:
    target = {"keystoneDomain": "lab", "keystoneProject": "p"}
    before = cloud_account("openstack", GOOD, target)
    # The hash from before `userDomain` existed. It must not change: slots and orphans are found by it.
    assert before == "8aacf6d2d58f92a447355e9daa5ed3a5eba4a0b2e49be6abd19cbf5d6f44ed79"
    assert cloud_account("openstack", GOOD | {"userDomain": ""}, target) == before
    assert cloud_account("openstack", GOOD | {"userDomain": "lab"}, target) == before, "the same user"
    others = {cloud_account("openstack", GOOD | {"userDomain": each}, target) for each in ("people", "default")}
    assert len(others | {before}) == 3
    assert cloud_account("openstack", GOOD | {"userDomain": "default"}, {}) == cloud_account("openstack", GOOD, {})


def test_platform_without_required_fields_accepts_an_empty_request() -> None:
    check_request("memory", {}, {}, {})
