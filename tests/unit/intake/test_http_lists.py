"""Filtering, ordering and paging of lists, and the lists of target platforms and formats."""

from __future__ import annotations

import json
import math
import time
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode

import pytest

from publisher.platforms.platform import installed, platform_of
from publisher.platforms.target_formats import API_FORMATS
from tests.service import ACCOUNT, JSON, XML, Answer, Service

ACCOUNTS, PLATFORMS, FORMATS = (f"users/alice/{each}" for each in ("accounts", "targetplatforms", "targetformats"))
WRAPPERS = {ACCOUNTS: "credAccounts", PLATFORMS: "targetPlatforms", FORMATS: "targetFormats"}
OPENSTACK_FORMATS = ["openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk"]


@pytest.fixture(scope="module", autouse=True)
def filled(service: Service) -> Service:
    """Accounts of two platforms, and one account of another user."""
    for login, name, platform in [
        ("alice", "nginx prod", "openstack"),
        ("alice", "Lab", "memory"),
        ("alice", "100% nginx", "openstack"),
        ("bob", "nginx of bob", "openstack"),
    ]:
        body = json.dumps({"name": name} | ACCOUNT | {"targetPlatform": {"name": platform}})
        assert service.post(f"users/{login}/accounts", body, content_type=JSON, login=login).status == 201
    return service


@pytest.fixture(params=[XML, JSON])
def accept(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def listed(service: Service, path: str, *, accept: str = JSON, login: str = "alice", **parameters: Any) -> Answer:
    """Request a list. It has every platform, even in XML, unless `extensions` says otherwise."""
    parameters = {"extensions": "true"} | parameters
    return service.get(f"{path}?{urlencode(parameters)}", login=login, accept=accept)


def names(answer: Answer, element: str = "name") -> tuple[int, list[str]]:
    """Return the total and the names of the items on the page, from either format."""
    assert answer.status == 200, answer.body
    if answer.headers["content-type"] == XML:
        return int(answer.text("total") or -1), [str(each.findtext(element)) for each in answer.xml.findall("*/*")]
    total, wrapper = answer.json.values()
    (items,) = wrapper.values()
    outer, _, inner = element.rpartition("/")
    return total, [(each[outer] if outer else each)[inner] for each in items]


# Parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "total", "found"),
    [
        ({}, 3, ["nginx prod", "Lab", "100% nginx"]),
        ({"query": "name=='*nginx*'"}, 2, ["nginx prod", "100% nginx"]),
        ({"query": 'name=="nginx prod"'}, 1, ["nginx prod"]),
        ({"query": "targetPlatform.name==OpenStack;name!='*%*'"}, 1, ["nginx prod"]),
        ({"query": "targetPlatform.type=='memory',dbId==1"}, 2, ["nginx prod", "Lab"]),
        ({"query": "created=gt=2020-01-01T00:00:00+01:00;lastModified=lt=2020-01-01T00:00:00Z"}, 0, []),
        ({"query": "name=='nginx of bob'"}, 0, []),
        ({"query": ""}, 3, ["nginx prod", "Lab", "100% nginx"]),
        ({"orderBy": "name"}, 3, ["100% nginx", "Lab", "nginx prod"]),
        ({"orderBy": "name", "descending": "True"}, 3, ["nginx prod", "Lab", "100% nginx"]),
        ({"descending": "true"}, 3, ["100% nginx", "Lab", "nginx prod"]),
        ({"orderBy": "", "descending": "false", "count": "", "offset": ""}, 3, ["nginx prod", "Lab", "100% nginx"]),
        ({"count": 2}, 3, ["nginx prod", "Lab"]),
        ({"count": 2, "offset": 2}, 3, ["100% nginx"]),
        ({"offset": 3}, 3, []),
        ({"query": "name=='*nginx*'", "orderBy": "name", "count": 1, "offset": 1}, 2, ["nginx prod"]),
        ({"unknown": "1"}, 3, ["nginx prod", "Lab", "100% nginx"]),
    ],
)
def test_accounts_are_filtered_ordered_and_paged(
    service: Service, accept: str, parameters: dict[str, Any], total: int, found: list[str]
) -> None:
    assert names(listed(service, ACCOUNTS, accept=accept, **parameters)) == (total, found)


def test_account_is_found_by_the_values_it_shows(service: Service) -> None:
    for account in listed(service, ACCOUNTS).json["credAccounts"]["credAccount"]:
        query = f"created=='{account['created']}';lastModified=='{account['lastModified']}';dbId=={account['dbId']}"
        assert names(listed(service, ACCOUNTS, query=query)) == (1, [account["name"]])


@pytest.mark.parametrize("path", WRAPPERS)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("query=name", "query: at character 5, one of == != =lt= =le= =gt= =ge= is expected, not the end"),
        ("query=nome%3D%3Dx", "query: 'nome' is no field of this list; its fields are "),
        ("query=name%3Dlt%3D*", "query: name is compared with a '*'"),
        ("query=name%3D%3D%00", "query: the character U+0000 is not accepted"),
        ("query=name%3D%3Dx&query=name%3D%3Dy", "query: is given more than once"),
        ("orderBy=nome", "orderBy: 'nome' is no field of this list; its fields are "),
        ("orderBy=name,type", "orderBy: 'name,type' is no field"),
        ("orderBy=name%3B--", "orderBy: 'name;--' is no field"),
        ("descending=yes", "descending: is not true or false"),
        ("count=0", "count: is not a number from 1 to 2147483647"),
        ("count=-1", "count: is not a number"),
        ("count=1.0", "count: is not a number"),
        ("count=%D9%A3", "count: is not a number"),
        ("count=2147483648", "count: is not a number"),
        ("count=1&count=2", "count: is given more than once"),
        ("offset=-1", "offset: is not a number from 0 to 2147483647"),
        ("offset=" + "9" * 5000, "offset: is not a number"),
        ("offset=x", "offset: is not a number"),
        ("query=" + "(" * 10_000, "query: 10000 characters are too many; at most 4096 are accepted"),
        ("query=" + "(" * 4000, "query: parentheses are nested too deeply; at most 20 are accepted"),
        ("query=name%3D%3D" + "x" * 60_000, "query: 60006 characters are too many"),
        ("query=" + ",".join(["a%3D%3D1"] * 101), "query: there are too many comparisons; at most 100"),
    ],
    ids=lambda value: value[:30],
)
def test_invalid_parameter_is_named_in_the_error(
    service: Service, accept: str, path: str, parameters: str, words: str
) -> None:
    started = time.process_time()
    answer = service.get(f"{path}?{parameters}", login="alice", accept=accept)
    assert answer.status == 400
    assert answer.problem().startswith(words)
    assert len(answer.problem()) < 300
    assert time.process_time() - started < 2


def test_wrong_type_in_a_comparison_is_named_in_the_error(service: Service) -> None:
    for query, words in [
        ("dbId==x", "query: dbId is an integer, and cannot be compared with 'x'"),
        ("created==x", "query: created is a dateTime with an offset, such as"),
    ]:
        assert words in listed(service, ACCOUNTS, query=query).problem()
    assert "access is true or false" in listed(service, PLATFORMS, query="access==1").problem()


def test_signature_and_login_are_checked_before_list_parameters(service: Service) -> None:
    assert listed(service, ACCOUNTS, apiKey="x", signature="y").status == 401
    assert service.get(f"{ACCOUNTS}?query=(", login="alice", password="wrong").status == 401


def test_each_page_has_its_own_etag(service: Service) -> None:
    first = listed(service, ACCOUNTS, count=1)
    known = {"If-None-Match": first.headers["etag"]}
    assert service.get(f"{ACCOUNTS}?count=1", login="alice", accept=JSON, headers=known).status == 304
    assert service.get(f"{ACCOUNTS}?count=1&offset=1", login="alice", accept=JSON, headers=known).status == 200


# Target platforms and formats -------------------------------------------------------------------------------------


def test_target_platforms_are_filtered_and_ordered(service: Service, accept: str) -> None:
    assert names(listed(service, PLATFORMS, accept=accept)) == (len(installed()), list(installed()))
    assert names(listed(service, PLATFORMS, accept=accept, query="name=='OPEN*'")) == (1, ["openstack"])
    both = "type==memory,type==openstack;active==true;access==true"
    assert names(listed(service, PLATFORMS, accept=accept, query=both, orderBy="name", descending="true", count=1)) == (
        2, ["openstack"],
    )  # fmt: skip


def test_target_platform_document_has_the_expected_values(service: Service) -> None:
    (platform,) = listed(service, PLATFORMS, query="name==openstack").json["targetPlatforms"]["targetPlatform"]
    assert service.get(platform["uri"], login="alice", accept=JSON).json == platform
    assert service.get(f"{PLATFORMS}/{platform['dbId']}", login="alice", accept=JSON).json == platform
    assert len(platform.pop("digest")) == 32
    assert platform.pop("created") == platform.pop("lastModified")
    assert platform == {
        "dbId": 101,
        "name": "openstack",
        "type": "openstack",
        "access": True,
        "active": True,
        "uri": "users/alice/targetplatforms/openstack",
    }


def test_target_formats_are_filtered_and_ordered(service: Service, accept: str) -> None:
    found = listed(service, FORMATS, accept=accept, query="name=='openstack'")
    assert names(found, "format/name") == (len(OPENSTACK_FORMATS), OPENSTACK_FORMATS)
    found = listed(service, FORMATS, accept=accept, query="format.name==openstack*;credAccountType==openstack", count=3)
    assert names(found, "format/name") == (4, OPENSTACK_FORMATS[:3])
    found = listed(
        service, FORMATS, accept=accept, query="format.name==iso,format.name==raw;type!=cloud", orderBy="name"
    )
    assert names(found) == (2, ["iso", "raw"])
    found = listed(service, FORMATS, accept=accept, query="format.name==raw;type==cloud")
    assert names(found) == (0, []), "a cloud's formats are its own"


def test_target_format_document_has_the_expected_values(service: Service) -> None:
    every = listed(service, FORMATS).json["targetFormats"]["targetFormat"]
    assert {each["format"]["name"] for each in every} - API_FORMATS == {"memorydisk"}
    assert len({each["dbId"] for each in every}) == len(every)
    for each in every:
        assert service.get(each["uri"], login="alice", accept=JSON).json == each
    (openstack,) = [each for each in every if each["format"]["name"] == "openstackqcow2"]
    assert len(openstack.pop("digest")) == 32
    assert openstack.pop("created") == openstack.pop("lastModified")
    assert openstack == {
        "dbId": 101315,
        "name": "openstack",
        "format": {"dbId": 315, "name": "openstackqcow2"},
        "type": "cloud",
        "credAccountType": "openstack",
        "access": True,
        "active": True,
        "uri": "users/alice/targetformats/openstack/openstackqcow2",
    }
    assert len({each["digest"] for each in every if "digest" in each}) == len(every) - 1


def test_third_party_platform_is_listed_if_the_api_can_name_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third-party platform is listed if documents can name it. None of its formats are known, so none are listed."""
    monkeypatch.setattr("publisher.intake.routes.targets.installed", lambda: ("aws", "nimbus", "vcenter"))
    assert names(listed(service, PLATFORMS)) == (1, ["aws"])
    assert service.get(f"{PLATFORMS}/aws", login="alice").status == 200
    assert service.get(f"{PLATFORMS}/nimbus", login="alice").status == 404
    assert names(listed(service, FORMATS)) == (0, [])


@pytest.mark.parametrize("path", [PLATFORMS, f"{PLATFORMS}/openstack", FORMATS, f"{FORMATS}/openstack/raw"])
def test_targets_are_unmodified_since_the_service_started(service: Service, path: str) -> None:
    since = {"If-Modified-Since": formatdate(math.ceil(service.app.state.services.started), usegmt=True)}
    assert service.get(path, login="alice", headers=since).status == 304


@pytest.mark.parametrize(
    "path",
    [
        f"{PLATFORMS}/aws",
        f"{PLATFORMS}/OPENSTACK",
        f"{PLATFORMS}/1",
        f"{FORMATS}/openstack",
        f"{FORMATS}/openstack/kvm",
        f"{FORMATS}/memory/openstackqcow2",
        f"{FORMATS}/aws/aws",
    ],
)
def test_unknown_target_is_not_found(service: Service, path: str) -> None:
    answer = service.get(path, login="alice")
    assert answer.status == 404
    assert answer.problem()


@pytest.mark.parametrize("path", [PLATFORMS, f"{PLATFORMS}/openstack", FORMATS, f"{FORMATS}/openstack/raw"])
def test_targets_require_ownership_and_entitlement(service: Service, path: str) -> None:
    assert service.get(path, login=None).status == 401
    assert service.get(path, login="bob").status == 404
    assert service.get(path).status == 200
    without = service.get(path.replace("alice", "carol"), login="carol")
    assert (without.status, "image_generate" in without.problem()) == (403, True)


def test_every_installed_platform_declares_its_formats() -> None:
    for platform in (platform_of(name) for name in installed()):
        assert platform.formats, platform.name
        assert platform.extension or {*platform.formats, *platform.takes} <= API_FORMATS


# Platforms unknown to the API ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ACCOUNTS, PLATFORMS, FORMATS])
def test_xml_lists_omit_platforms_unknown_to_the_api(service: Service, path: str) -> None:
    """`total` counts only items that are shown, on a page too."""
    every, shown = listed(service, path), service.get(path, login="alice")
    assert b"memory" in every.body
    assert b"memory" not in shown.body
    total, found = names(shown)
    assert 0 < total == len(found) < names(every)[0]
    for page in ({"count": 1}, {"offset": 1}, {"query": "name=='*'"}):
        answer = listed(service, path, accept=XML, extensions="", **page)
        assert (names(answer)[0], b"memory" in answer.body) == (total, False)
    assert names(listed(service, path, accept=XML)) == names(every), "where they are asked for"
    assert names(listed(service, path, extensions="false")) == names(every), "JSON names them always"


def test_xml_of_a_platform_unknown_to_the_api_needs_extensions(service: Service) -> None:
    (account,) = listed(service, ACCOUNTS, query="targetPlatform.type==memory").json["credAccounts"]["credAccount"]
    for uri in (account["uri"], f"{PLATFORMS}/memory", f"{FORMATS}/memory/memorydisk"):
        refused = service.get(uri, login="alice")
        assert (refused.status, "extensions=true" in refused.problem()) == (406, True)
        assert service.get(f"{uri}?extensions=true", login="alice").status == 200
        assert service.get(uri, login="alice", accept=JSON).status == 200
    for wrong in ("maybe", "true&extensions=true"):
        refused = service.get(f"{PLATFORMS}?extensions={wrong}", login="alice", accept=JSON)
        assert (refused.status, refused.problem().partition(":")[0]) == (400, "extensions")


def test_account_of_an_uninstalled_platform_is_not_shown(fresh: Service) -> None:
    """The platform's package is no longer installed. The other accounts are still listed."""
    for platform in ("nimbus", "openstack"):
        fresh.store.accounts.add(owner="alice", name=platform, platform=platform, fields={}, sealed_secrets=b"")
    assert names(listed(fresh, ACCOUNTS)) == (1, ["openstack"])
    refused = fresh.get(f"{ACCOUNTS}/1", login="alice", accept=JSON)
    assert (refused.status, "'nimbus'" in refused.problem()) == (404, True)
