"""The Keystone v2.0 stub and the Glance behind it serve clients of that version as the real services did."""

import io
from collections.abc import Iterator

import pytest
import requests
from glanceclient import Client
from glanceclient.exc import HTTPNotFound
from keystoneauth1.exceptions import Unauthorized
from keystoneauth1.identity import v2
from keystoneauth1.session import Session

from tests.devcloud_venv import devcloud_venv
from tests.glance_behind_v2 import GlanceBehindV2
from tests.keystone_v2 import KeystoneV2Stub
from tests.patience import PATIENCE

CONTENT = b"bits of an image" * 4096


@pytest.fixture
def stub() -> Iterator[KeystoneV2Stub]:
    with KeystoneV2Stub("http://127.0.0.1:9", users={"joe": "good"}, tenants={"t", "u"}) as stub:
        yield stub


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlanceBehindV2]:
    directory = tmp_path_factory.mktemp("glance-v2")
    users = {"joe": "good", "eve": "evil"}
    with GlanceBehindV2(directory, devcloud_venv(), users=users, tenants={"t", "other"}) as cloud:
        yield cloud


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def login(
    session: requests.Session,
    auth_url: str,
    *,
    username: str = "joe",
    password: str = "good",  # noqa: S107
    tenant_name: str = "t",
) -> Session:
    plugin = v2.Password(auth_url, username=username, password=password, tenant_name=tenant_name)
    return Session(plugin, session=session)


def token_of(session: Session) -> str:
    token = session.get_token()
    assert token is not None
    return token


def glance(cloud: GlanceBehindV2, session: requests.Session) -> Client:
    return Client("2", session=login(session, cloud.auth_url))


def test_discovery_offers_v2_only(stub: KeystoneV2Stub) -> None:
    root = requests.get(stub.url, timeout=10 * PATIENCE)

    assert root.status_code == 300
    assert [version["id"] for version in root.json()["versions"]["values"]] == ["v2.0"]
    assert requests.get(f"{stub.url}/v2.0", timeout=10 * PATIENCE).json()["version"]["id"] == "v2.0"
    assert requests.get(f"{stub.url}/v3", timeout=10 * PATIENCE).status_code == 404


def test_a_token_has_the_tenant_and_the_catalog(stub: KeystoneV2Stub, session: requests.Session) -> None:
    keystone = login(session, f"{stub.url}/v2.0")

    assert keystone.get_project_id() == stub.tenant("t")["id"]
    assert keystone.get_endpoint(service_type="image", region_name="RegionOne") == stub.glance_url


@pytest.mark.parametrize("wrong", [{"password": "bad"}, {"username": "jim"}, {"tenant_name": "nowhere"}])
def test_wrong_credentials_are_refused_alike(
    stub: KeystoneV2Stub, session: requests.Session, wrong: dict[str, str]
) -> None:
    with pytest.raises(Unauthorized, match="The request you have made requires authentication"):
        login(session, f"{stub.url}/v2.0", **wrong).get_token()


def test_a_token_without_a_tenant_lists_the_tenants(stub: KeystoneV2Stub) -> None:
    body = {"auth": {"passwordCredentials": {"username": "joe", "password": "good"}}}
    access = requests.post(f"{stub.url}/v2.0/tokens", json=body, timeout=10 * PATIENCE).json()["access"]
    assert access["serviceCatalog"] == []

    headers = {"X-Auth-Token": access["token"]["id"]}
    listed = requests.get(f"{stub.url}/v2.0/tenants", headers=headers, timeout=10 * PATIENCE).json()
    assert [tenant["name"] for tenant in listed["tenants"]] == ["t", "u"]

    scope = {"auth": {"token": {"id": access["token"]["id"]}, "tenantId": listed["tenants"][1]["id"]}}
    scoped = requests.post(f"{stub.url}/v2.0/tokens", json=scope, timeout=10 * PATIENCE).json()["access"]
    assert scoped["token"]["tenant"]["name"] == "u"


def test_only_a_service_may_validate_a_token(stub: KeystoneV2Stub, session: requests.Session) -> None:
    token = token_of(login(session, f"{stub.url}/v2.0"))

    def status(asked: str, asker: str) -> int:
        address = f"{stub.url}/v2.0/tokens/{asked}"
        return requests.get(address, headers={"X-Auth-Token": asker}, timeout=10 * PATIENCE).status_code

    assert status(token, stub.service_token) == 200
    assert status(token, token) == 403
    assert status(token, "nonsense") == 401
    assert status("nonsense", stub.service_token) == 404
    stub.revoke_tokens()
    assert status(token, stub.service_token) == 404


@pytest.mark.parametrize(("content", "status"), [(b"{", 400), (b'{"auth": 1}', 400), (b'{"auth": {}}', 401)])
def test_malformed_requests_are_refused(stub: KeystoneV2Stub, content: bytes, status: int) -> None:
    assert requests.post(f"{stub.url}/v2.0/tokens", data=content, timeout=10 * PATIENCE).status_code == status


@pytest.mark.real
def test_an_image_is_uploaded_and_deleted(cloud: GlanceBehindV2, session: requests.Session) -> None:
    client = glance(cloud, session)
    image = client.images.create(name="small", disk_format="raw", container_format="bare")
    client.images.upload(image.id, io.BytesIO(CONTENT))

    image = client.images.get(image.id)
    assert (image.status, image.size) == ("active", len(CONTENT))
    assert b"".join(client.images.data(image.id)) == CONTENT

    client.images.delete(image.id)
    with pytest.raises(HTTPNotFound):
        client.images.get(image.id)


@pytest.mark.real
def test_an_image_of_another_tenant_is_not_found(cloud: GlanceBehindV2, session: requests.Session) -> None:
    image = glance(cloud, session).images.create(name="mine", disk_format="raw", container_format="bare")

    eve = login(session, cloud.auth_url, username="eve", password="evil", tenant_name="other")
    with pytest.raises(HTTPNotFound):
        Client("2", session=eve).images.get(image.id)


@pytest.mark.real
@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": "nonsense"}, {"X-Identity-Status": "Confirmed"}])
def test_glance_refuses_a_bad_token(cloud: GlanceBehindV2, headers: dict[str, str]) -> None:
    answer = requests.get(f"{cloud.glance.url}/v2/images", headers=headers, timeout=30 * PATIENCE)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{cloud.keystone.url}"'


@pytest.mark.real
def test_glance_refuses_a_token_that_was_revoked(cloud: GlanceBehindV2, session: requests.Session) -> None:
    token = token_of(login(session, cloud.auth_url))
    cloud.keystone.revoke_tokens()

    answer = requests.get(f"{cloud.glance.url}/v2/images", headers={"X-Auth-Token": token}, timeout=30 * PATIENCE)
    assert answer.status_code == 401
