"""Signing in to a real Keystone: users and projects of different domains, credentials for one project, addresses under
paths, and the errors of refused sign-ins."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import PermanentCloudError, Reason, TransientCloudError
from publisher.core.ticket import Account, Target
from publisher.devcloud.cloud import DevCloud
from publisher.outbound.policy import EVERYWHERE
from tests.cloud_administration import PASSWORD, Administrator
from tests.servers.certificates import authority
from tests.servers.reverse_proxy import reverse_proxy
from workers.clouds.base import Tags, Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.transfer import Transfer

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


# Credentials for one project ------------------------------------------------------------------------------------------


def signed_in(
    devcloud: DevCloud, secrets: Mapping[str, str], target: Mapping[str, Any] | None = None, **fields: str
) -> OpenStackPublisher:
    account = Account("openstack", {"keystoneUrl": devcloud.keystone_url} | fields, dict(secrets))
    return OpenStackPublisher.connect(
        account, Target("openstack", dict(target or {})), Timeouts(10, 60, 60), EVERYWHERE
    )


def refused(devcloud: DevCloud, secrets: Mapping[str, str], **given: Any) -> str:
    with pytest.raises(PermanentCloudError) as caught:
        signed_in(devcloud, secrets, **given)
    for secret in secrets.values():
        assert secret not in str(caught.value)
    return str(caught.value)


def test_application_credential_signs_in_to_its_project(devcloud: DevCloud, administrator: Administrator) -> None:
    lab = administrator.domain()
    project, other = administrator.project(lab["id"]), administrator.project(lab["id"])
    joe = administrator.user(lab["id"], project, other)
    made = administrator.application_credential(joe, project)
    secret = {"applicationCredentialSecret": made["secret"]}
    by_id = {"applicationCredentialId": made["id"]}
    by_name = {"applicationCredentialName": made["name"], "login": joe["name"], "userDomain": lab["name"]}
    for fields, target in (
        (by_id, {}),
        (by_id, {"keystoneProject": project["id"], "keystoneDomain": lab["name"]}),
        (by_name, {"keystoneProject": project["name"], "keystoneDomain": lab["id"]}),
    ):
        cloud = signed_in(devcloud, secret, target, **fields)
        assert cloud.tagged("nobody's") == []
        cloud.close()
    words = refused(devcloud, secret, target={"keystoneProject": other["name"]}, **by_id)
    assert f"for the project '{project['name']}' (id {project['id']}), not for '{other['name']}'" in words
    words = refused(devcloud, secret, target={"keystoneDomain": "default"}, **by_id)
    assert words.startswith("keystoneDomain: the application credential")
    for wrong in (by_id | {"applicationCredentialId": "nix"}, by_name | {"login": "nix"}):
        assert "rejected the application credential" in refused(devcloud, secret, **wrong)
    assert "check credAccount.applicationCredentialId and credAccount.applicationCredentialSecret" in refused(
        devcloud, {"applicationCredentialSecret": "another-secret"}, **by_id
    )


def test_error_of_an_expired_application_credential_says_what_to_do(
    devcloud: DevCloud, administrator: Administrator
) -> None:
    project = administrator.project("default")
    joe = administrator.user("default", project)
    until = datetime.now(UTC) + timedelta(seconds=2)
    made = administrator.application_credential(joe, project, expires_at=until.strftime("%Y-%m-%dT%H:%M:%S.%f"))
    while datetime.now(UTC) <= until:
        time.sleep(0.1)
    words = refused(devcloud, {"applicationCredentialSecret": made["secret"]}, applicationCredentialId=made["id"])
    assert f"rejected the application credential '{made['id']}': it may have expired" in words
    assert "create another one" in words


def test_application_credential_without_the_role_cannot_publish(
    devcloud: DevCloud, administrator: Administrator
) -> None:
    project = administrator.project("default")
    joe = administrator.user("default", project)
    made = administrator.application_credential(joe, project, roles=[{"name": "reader"}])
    cloud = signed_in(devcloud, {"applicationCredentialSecret": made["secret"]}, applicationCredentialId=made["id"])
    with pytest.raises(PermanentCloudError, match=r"403: .*no role that allows this.*application credential") as caught:
        cloud._images.create({"name": "x", "disk_format": "raw", "container_format": "bare"})
    assert caught.value.reason is Reason.FORBIDDEN
    cloud.close()


def test_token_is_used_for_its_project_until_it_is_revoked(devcloud: DevCloud, administrator: Administrator) -> None:
    project, other = administrator.project("default"), administrator.project("default")
    joe = administrator.user("default", project, other)
    login = {"id": joe["id"], "password": PASSWORD}
    token = administrator.token(login, {"project": {"id": project["id"]}})
    target = {"keystoneProject": project["name"]}
    cloud = signed_in(devcloud, {"token": token}, target)
    assert cloud.tagged("nobody's") == []
    cloud.close()
    assert "not for '" in refused(devcloud, {"token": token}, target={"keystoneProject": other["name"]})
    assert "is not for a project" in refused(devcloud, {"token": administrator.token(login)}, target=target)
    system = administrator.own_token({"system": {"all": True}})
    assert "is for the whole system" in refused(devcloud, {"token": system}, target=target)
    administrator.revoke(token)
    words = refused(devcloud, {"token": token}, target=target)
    assert "rejected the token (Failed to validate token): it has expired or was revoked" in words
    assert "give a new one as credAccount.token" in words


def test_trust_signs_in_to_the_project_of_the_trust(devcloud: DevCloud, administrator: Administrator) -> None:
    project, own = administrator.project("default"), administrator.project("default")
    joe, ann = administrator.user("default", project), administrator.user("default", own)
    trust = administrator.trust(joe, ann, project)["id"]
    password = {"password": PASSWORD}
    cloud = signed_in(devcloud, password, {"keystoneProject": project["name"]}, login=ann["name"], trustId=trust)
    assert cloud.tagged("nobody's") == []
    cloud.close()
    words = refused(devcloud, password, target={"keystoneProject": own["name"]}, login=ann["name"], trustId=trust)
    assert f"is for the project '{project['name']}'" in words
    for login, id in ((joe["name"], trust), (ann["name"], "nix")):
        words = refused(devcloud, password, login=login, trustId=id)
        assert f"rejected the trust '{id}'" in words
        assert "check credAccount.trustId" in words
    words = refused(devcloud, {"password": "another-password"}, login=ann["name"], trustId=trust)
    assert f"rejected the login '{ann['name']}'" in words


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.own_cloud
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_keystone_and_glance_may_be_under_paths_of_one_address(
    devcloud: DevCloud, administrator: Administrator, tmp_path: Path, host: str
) -> None:
    ours = authority(tmp_path)
    project = administrator.project("default")
    joe = administrator.user("default", project)
    routes = {"/identity": devcloud.keystone_url, "/image": devcloud.glance_url}
    with reverse_proxy(routes, ours.server, host) as proxy:
        account = {"login": joe["name"], "keystoneUrl": f"{proxy.url}/identity", "caBundle": ours.pem}
        administrator.image_endpoint("Edge", "public", f"{proxy.url}/image/v2")
        administrator.image_endpoint("Edge", "internal", f"{proxy.url}/image/")
        target = {"keystoneProject": project["name"], "publishLocation": "Edge"}
        cases: list[dict[str, str]] = [
            {},
            {"keystoneUrl": f"{proxy.url}/identity/v3/", "interface": "internal"},
            {"glanceUrl": f"{proxy.url}/image/v2/", "keystoneVersion": "v3"},
        ]
        for case in cases:
            cloud = signed_in(devcloud, {"password": PASSWORD}, target, **account | case)
            assert cloud.tagged("nobody's") == []
            cloud.close()
        # The project is found by its user only, and bytes take the same way.
        cloud = signed_in(devcloud, {"password": PASSWORD}, {"publishLocation": "Edge"}, **account)
        assert uploads(cloud, tmp_path / "disk")
        cloud = signed_in(devcloud, {"password": PASSWORD}, target | {"sharedWith": [project["name"]]}, **account)
        assert (cloud._shared_with(), cloud._images.stores()) == ([project["id"]], ["fs"])
        assert "web-download" in cloud._images.import_methods()
        cloud.close()
        explored = OpenStackPublisher.explore(
            *(Account("openstack", account, {"password": PASSWORD}), Target("openstack", {})),
            *(Timeouts(10, 60, 60), EVERYWHERE),
        )
        assert [each.name for each in explored.projects] == [project["name"]]
        assert [each.name for each in explored.regions] == ["Edge", "RegionOne"]
        assert {each.split("/")[1] for each in proxy.paths} == {"identity", "image"}
        assert not [each for each in proxy.paths if "/v2/v2" in each or "//" in each]
        words = refused(devcloud, {"password": PASSWORD}, target=target, interface="admin", **account)
        assert "region 'Edge' has no image service" in words


def uploads(cloud: OpenStackPublisher, file: Path) -> bool:
    """Upload an image, delete it, and return whether it was usable."""
    file.write_bytes(b"a disk" * 1000)
    cloud_id = str(uuid.uuid4())
    cloud._images.create({"id": cloud_id, "name": "x", "disk_format": "raw", "container_format": "bare"})
    with file.open("rb") as opened:
        answer = cloud._put(cloud_id, Transfer(opened.fileno(), file.stat().st_size))
    record = cloud._images.get(cloud_id) or {}
    cloud.delete(cloud_id, Tags("ticket", "tests"))
    cloud.close()
    return answer.status == 204 and record.get("status") == "active"
