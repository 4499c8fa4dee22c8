"""Signing in to a real Keystone: users and projects of different domains, and the errors of refused sign-ins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from publisher.core.errors import PermanentCloudError, Reason, TransientCloudError
from publisher.core.ticket import Account, Target
from publisher.devcloud.cloud import DevCloud
from publisher.outbound.policy import EVERYWHERE
from tests.cloud_administration import PASSWORD, Administrator
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher

pytestmark = pytest.mark.real


@pytest.fixture
def administrator(devcloud: DevCloud) -> Iterator[Administrator]:
    with Administrator.of(devcloud) as administrator:
        yield administrator


def connect(devcloud: DevCloud, login: str, password: str = PASSWORD, **values: Any) -> OpenStackPublisher:
    """Connect with `values` as elements of the target, except those that only an account has."""
    of_account = {name: values.pop(name) for name in ("userDomain", "interface", "glanceUrl") if name in values}
    fields = {"keystoneUrl": devcloud.keystone_url, "login": login, "keystoneVersion": "v3"} | of_account
    account = Account("openstack", fields, {"password": password})
    return OpenStackPublisher.connect(
        account, Target("openstack", {"displayName": "x"} | values), Timeouts(10, 60, 60), EVERYWHERE
    )


def works(devcloud: DevCloud, login: str, **values: Any) -> str | None:
    """Sign in, list images, and return the region."""
    cloud = connect(devcloud, login, **values)
    assert cloud.tagged("nobody's") == []
    cloud.close()
    return cloud.region


def refusal(devcloud: DevCloud, login: str, **values: Any) -> PermanentCloudError:
    with pytest.raises(PermanentCloudError) as caught:
        connect(devcloud, login, **values)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_user_of_one_domain_can_use_a_project_of_another(devcloud: DevCloud, administrator: Administrator) -> None:
    people, lab = administrator.domain(), administrator.domain()
    project = administrator.project(lab["id"])
    joe = administrator.user(people["id"], project)["name"]
    for user_domain in (people["name"], people["id"]):
        for project_domain, named in (
            (lab["name"], project["name"]),
            (lab["id"], project["name"]),
            (None, project["id"]),
        ):
            told = {"userDomain": user_domain, "keystoneDomain": project_domain, "keystoneProject": named}
            assert works(devcloud, joe, **told) == "RegionOne"
    assert works(devcloud, joe, userDomain=people["name"]) == "RegionOne", "the only project there is"


def test_error_of_a_wrong_domain_names_the_element_to_check(devcloud: DevCloud, administrator: Administrator) -> None:
    people, lab = administrator.domain(), administrator.domain()
    project = administrator.project(lab["id"])
    joe = administrator.user(people["id"], project)["name"]
    without = str(refusal(devcloud, joe, keystoneDomain=lab["name"], keystoneProject=project["name"]))
    assert (
        f"keystoneDomain ('{lab['name']}'), which is the user's too unless credAccount.userDomain is given" in without
    )
    wrong = str(
        refusal(devcloud, joe, userDomain="nowhere", keystoneDomain=lab["name"], keystoneProject=project["name"])
    )
    assert "check credAccount.login, credAccount.password and credAccount.userDomain ('nowhere')" in wrong
    of_project = str(refusal(devcloud, joe, userDomain=people["name"], keystoneProject=project["name"]))
    assert f"in the domain 'default', but in the one with the id {lab['id']}; give that as keystoneDomain" in of_project


def test_expired_password_is_told_apart_from_a_wrong_one(devcloud: DevCloud, administrator: Administrator) -> None:
    project = administrator.project("default")
    joe = administrator.user("default", project)
    assert works(devcloud, joe["name"], keystoneProject=project["name"])
    administrator.let_password_expire(joe)
    for told in ({"keystoneProject": project["name"]}, {}):
        error = refusal(devcloud, joe["name"], **told)
        assert f"the password of '{joe['name']}' has expired (The password is expired" in str(error)
        assert error.reason is Reason.CREDENTIALS
    with pytest.raises(PermanentCloudError, match="rejected the login") as wrong:
        connect(devcloud, joe["name"], "another-password")
    assert "expired" not in str(wrong.value)


def test_a_disabled_project_is_not_offered(devcloud: DevCloud, administrator: Administrator) -> None:
    open_, shut = administrator.project("default"), administrator.project("default", enabled=False)
    joe = administrator.user("default", open_, shut)["name"]
    assert str(refusal(devcloud, joe, keystoneProject="nix")).endswith(f"it may use: {open_['name']}")
    for named in (shut["name"], shut["id"]):
        words = f"keystoneProject: project '{named}' is disabled in the cloud; have it enabled, or use another: "
        assert str(refusal(devcloud, joe, keystoneProject=named)) == words + open_["name"]
    assert works(devcloud, joe) == "RegionOne", "the only one that can be used"


@pytest.mark.own_cloud
def test_region_must_be_given_if_the_cloud_has_several(devcloud: DevCloud, administrator: Administrator) -> None:
    project = administrator.project("default")
    joe = administrator.user("default", project)["name"]
    administrator.image_endpoint("RegionTwo")
    error = refusal(devcloud, joe)
    assert str(error) == (
        "publishLocation: is needed: this cloud has several regions; give one of: RegionOne, RegionTwo"
    )
    assert error.reason is Reason.REQUEST
    assert works(devcloud, joe, publishLocation="RegionTwo") == "RegionTwo"
    assert works(devcloud, joe, interface="internal") == "RegionOne", "the other region has a public endpoint only"
    assert works(devcloud, joe, glanceUrl=devcloud.glance_url) is None, "the region is of no matter"
    unknown = str(refusal(devcloud, joe, publishLocation="RegionNix"))
    assert re.search(r"region 'RegionNix' has no image service; give one of: RegionOne, RegionTwo", unknown)


def test_error_of_a_keystone_without_tls_suggests_http(devcloud: DevCloud) -> None:
    """This Keystone hangs up, which may have another reason, too. The error is certain only about one that answers."""
    url = devcloud.keystone_url.replace("http:", "https:")
    account = Account("openstack", {"keystoneUrl": url, "login": "joe"}, {"password": PASSWORD})
    with pytest.raises(TransientCloudError, match="if it does not use TLS, use http:// in keystoneUrl"):
        OpenStackPublisher.connect(account, Target("openstack", {}), Timeouts(10, 20, 20), EVERYWHERE)
