"""A client that knows the API by its XML Schema alone: classes bound to it, which refuse whatever it does not say."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lxml import etree
from xsdata.exceptions import ParserError
from xsdata.formats.dataclass.models.generics import DerivedElement
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig
from xsdata.formats.dataclass.serializers import XmlSerializer

from publisher.core.image import Image
from tests.patience import PATIENCE
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real

XML = "application/xml"
UFORGE = "http://www.usharesoft.com/uforge"
PIMAGES = "users/root/appliances/4/pimages"
SECRET = "what-no-answer-shows"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path_factory.mktemp("strict") / "data", redis.url) as running:
        yield running


@pytest.fixture(scope="module")
def image(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Image:
    file = tmp_path_factory.mktemp("image") / "small.raw"
    file.write_bytes(os.urandom(1 << 20))
    return stack.add_image(file, id=7, name="small")


@pytest.fixture(scope="module")
def bound(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The classes that a generator makes of the schema as it is served."""
    directory = tmp_path_factory.mktemp("bound")
    served = stack.call("GET", "schema/uforge.xsd", login=None, accept=XML)
    assert served.status == 200
    (directory / "uforge.xsd").write_bytes(served.body)
    tools = Path(sys.executable).parent  # the generator calls ruff for the layout
    made = subprocess.run(
        [tools / "xsdata", "generate", "uforge.xsd", "--package", "uforge_bound", "--structure-style",
         "single-package"],
        cwd=directory,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield importlib.import_module("uforge_bound")
        sys.modules.pop("uforge_bound", None)


@dataclass
class Client:
    """Speaks to the service in objects of the bound classes."""

    stack: Stack
    bound: ModuleType

    def __post_init__(self) -> None:
        strict = ParserConfig(
            fail_on_unknown_properties=True, fail_on_unknown_attributes=True, fail_on_converter_warnings=True
        )
        self._parser = XmlParser(config=strict)
        served = self.stack.call("GET", "schema/uforge.xsd", login=None, accept=XML)
        self._schema = etree.XMLSchema(etree.fromstring(served.body))

    def parse(self, body: bytes, kind: str) -> Any:
        """Valid, because the bound classes mind neither the order nor an empty dateTime; and bound."""
        self._schema.assertValid(etree.fromstring(body))
        return self.bind(body, kind)

    def bind(self, body: bytes, kind: str) -> Any:
        made = self._parser.from_bytes(body, getattr(self.bound, kind))
        # So is wrapped what is of a concrete type, under the name of the abstract one.
        return made.value if isinstance(made, DerivedElement) else made

    def get(self, path: str, kind: str, status: int = 200, **options: Any) -> Any:
        answer = self.stack.call("GET", path, accept=XML, **options)
        assert answer.status == status, answer.body
        assert answer.headers["Content-Type"] == XML
        return self.parse(answer.body, kind)

    def delete(self, path: str) -> None:
        answer = self.stack.call("DELETE", path, accept=XML)
        assert (answer.status, answer.body) == (204, b"")

    def refused(self, method: str, path: str, status: int, body: bytes | None = None, **options: Any) -> Any:
        answer = self.stack.call(method, path, body, accept=XML, **options)
        assert answer.status == status, answer.body
        error = self.parse(answer.body, "UforgeError")
        assert (error.status_code, error.request_method) == (status, method)
        assert error.request_uri
        assert error.timestamp
        return error

    def post(self, path: str, body: bytes, kind: str) -> Any:
        answer = self.stack.call("POST", path, body, accept=XML)
        assert answer.status == 201, answer.body
        made = self.parse(answer.body, kind)
        assert answer.headers["Location"].endswith(f"/api/{made.uri}")
        return made

    def publish(self, image: Image, account: Any = None) -> Any:
        return self.post(PIMAGES, self.request(image, account), "PublishImage")

    def request(self, image: Image, account: Any = None) -> bytes:
        wanted = self.bound.PublishImageMemory(
            image_uri=f"users/root/appliances/4/images/{image.id}",
            cred_account=account or self.account(),
            display_name="strict",
        )
        return self.render(wanted, "publishImage")

    def account(self, **more: Any) -> Any:
        platform = self.bound.TargetPlatform(name="memory", type_value=self.platform)
        return self.bound.CredAccountMemory(target_platform=platform, login="strict", password=SECRET, **more)

    def render(self, document: Any, root: str) -> bytes:
        """As the client library does: of the abstract type's name, with `xsi:type`."""
        named = DerivedElement(f"{{{UFORGE}}}{root}", document, f"{{{UFORGE}}}{type(document).__name__}")
        return XmlSerializer().render(named).encode()

    @property
    def platform(self) -> Any:
        return self.bound.TargetPlatformType("memory")

    def wait(self, ticket: Any, seconds: float = 30) -> Any:
        """As callers do: `complete` is looked at first."""
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            status = self.get(ticket.status_uri, "Status")
            assert status.message
            assert 0 <= status.percentage <= 100
            if status.complete or status.error or status.cancelled:
                return status
            time.sleep(0.05)
        raise AssertionError(f"ticket {ticket.db_id} has not ended within {seconds} s")


@pytest.fixture
def client(stack: Stack, bound: ModuleType) -> Client:
    return Client(stack, bound)


def test_a_session(client: Client, stack: Stack, image: Image) -> None:
    alive = client.get("status", "ServiceStatus", login=None)
    assert (alive.alive, alive.version) == (True, "3.8.13")
    nothing = client.get(PIMAGES, "PublishImages")
    assert (nothing.total, nothing.publish_images.publish_image) == (0, [])

    # What there is, found by following the URIs of the user.
    user = client.get("users/root", "User")
    assert user.admin
    (appliance,) = client.get(user.base_appliances_uri, "Appliances").appliances.appliance
    assert (appliance.db_id, appliance.arch_name, appliance.version) == (4, "x86_64", "1")
    assert appliance.distribution_name
    openstack = "?query=targetFormat.name%3D%3D%27openstack%27&orderBy=name&count=10"
    (listed_image,) = client.get(appliance.base_images_uri + openstack, "Images").images.image
    assert (listed_image.name, listed_image.file_size, listed_image.status.complete) == ("small", image.size, True)
    assert (listed_image.target_format.name, listed_image.target_format.format.name) == ("openstack", "raw")
    (offered,) = [
        each
        for each in client.get(user.base_target_platforms_uri, "TargetPlatforms").target_platforms.target_platform
        if each.type_value is client.platform
    ]
    assert client.get(offered.uri, "TargetPlatform").name == "memory"
    formats = client.get(f"{user.base_target_formats_uri}?query=name%3D%3Dopenstack", "TargetFormats")
    assert "openstackqcow2" in [each.format.name for each in formats.target_formats.target_format]

    # An account, kept, and named as it was listed: without its secret.
    made = client.post(
        user.base_cred_accounts_uri, client.render(client.account(name="lab"), "credAccount"), "CredAccount"
    )
    assert (made.name, made.password, made.secrets_missing) == ("lab", None, True)
    (account,) = client.get(user.base_cred_accounts_uri, "CredAccounts").cred_accounts.cred_account
    assert type(account) is client.bound.CredAccountMemory
    assert account.created

    ticket = client.publish(image, account)
    assert type(ticket) is client.bound.PublishImageMemory
    assert type(ticket.cred_account) is client.bound.CredAccountMemory
    assert ticket.cred_account.target_platform.type_value is client.platform
    assert (ticket.cred_account.password, ticket.cred_account.secrets_missing) == (None, True)
    assert ticket.status.message == "Queued"
    ended = client.wait(ticket)
    assert (ended.complete, ended.published, ended.error, ended.cancelled) == (True, True, False, False)
    assert (ended.percentage, ended.bytes_loaded) == (100, image.size)

    published = client.get(ticket.uri, "PublishImage")
    assert type(published) is client.bound.PublishImageMemory
    assert (published.db_id, published.display_name, published.file_size) == (ticket.db_id, "strict", image.size)
    assert published.cloud_id
    assert client.get(published.image_uri, "Image").sha256sum == image.sha256
    assert client.get(published.cred_account.uri, "CredAccount").name == "lab"
    # As existing clients do: without a login, from the URI that they were told.
    for download in (listed_image.download_uri, client.get(published.uri, "PublishImage").download_uri):
        file = stack.call("GET", download, login=None)
        assert (file.status, hashlib.sha256(file.body).hexdigest()) == (200, image.sha256)
        client.refused("GET", download, 401, login=None)
    assert published.created.to_datetime().tzinfo is not None

    # Nobody is there to take up another one: it is cancelled before it has begun.
    for worker in stack.workers:
        worker.kill()
    other = client.publish(image)
    listed = client.get(PIMAGES, "PublishImages")
    assert listed.total == 2
    assert {each.db_id for each in listed.publish_images.publish_image} == {ticket.db_id, other.db_id}
    assert {type(each) for each in listed.publish_images.publish_image} == {client.bound.PublishImageMemory}
    statuses = client.get(f"{PIMAGES}/statuses", "Statuses")
    assert (statuses.total, len(statuses.statuses.status)) == (2, 2)
    going_on = client.refused("DELETE", other.uri, 409)
    assert "cancel it first" in going_on.localized_error_msg.message
    client.delete(f"{other.uri}/cancel")
    cancelled = client.wait(other)
    assert (cancelled.cancelled, cancelled.complete, cancelled.error) == (True, False, False)

    client.delete(account.uri)
    client.refused("GET", account.uri, 404)
    assert client.get(ticket.uri, "PublishImage").cred_account.target_platform.type_value is client.platform
    for each in (ticket, other):
        client.delete(each.uri)
        client.refused("GET", each.uri, 404)
    assert client.get(PIMAGES, "PublishImages").total == 0
    client.delete(listed_image.uri)
    client.refused("GET", listed_image.uri, 404)
    assert client.get(appliance.base_images_uri, "Images").total == 0


def test_every_refusal_is_a_document(client: Client, image: Image) -> None:
    assert client.refused("POST", PIMAGES, 400, b"<").localized_error_msg.message
    wrong = client.request(image).replace(b">strict</displayName>", b">" + b"x" * 5000 + b"</displayName>")
    named = client.refused("POST", PIMAGES, 400, wrong)
    assert "displayName" in named.localized_error_msg.message
    client.refused("GET", PIMAGES, 401, login=None)
    client.refused("GET", "nowhere", 404)
    client.refused("PUT", PIMAGES, 405)
    client.refused("POST", PIMAGES, 415, b"x", content_type="text/plain")


def test_the_client_is_strict(client: Client) -> None:
    """Else what the other tests parse would prove nothing."""
    status = '<n:status xmlns:n="http://www.usharesoft.com/uforge"{}>{}</n:status>'
    assert client.parse(status.format("", "<percentage>7</percentage>").encode(), "Status").percentage == 7
    unbindable = (
        status.format("", "<colour>red</colour>"),
        status.format(' colour="red"', ""),
        status.format("", "<percentage>x</percentage>"),
        status.format("", "<complete>True</complete>"),
        status.format("", "<dbId>7</dbId><dbId>7</dbId>"),
        '<status xmlns="http://www.usharesoft.com/uforge"><percentage>7</percentage></status>',
    )
    for wrong in unbindable:
        with pytest.raises(ParserError):
            client.bind(wrong.encode(), "Status")
    invalid = (
        status.format("", "<created></created>"),
        status.format("", "<dbId>7</dbId><created>2026-01-02T03:04:05Z</created>"),
    )
    for wrong in (*unbindable, *invalid):
        with pytest.raises(etree.DocumentInvalid):
            client.parse(wrong.encode(), "Status")
