"""A client generated from the API's schema publishes the demo's images, and can read every answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from lxml import etree
from xsdata.exceptions import ParserError

from demo.images import write_qcow2
from publisher.core.image import Image
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance
from tests.servers.redis import RedisServer
from tests.stack import Stack
from tests.strict_client import Refused, StrictClient

pytestmark = pytest.mark.real

MIB = 1 << 20
PIMAGES = "users/root/appliances/4/pimages"
FOR_OPENSTACK = "?query=targetFormat.name%3D%3D%27openstack%27&orderBy=name&count=10"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path_factory.mktemp("strict") / "data", redis.url) as running:
        yield running


@pytest.fixture
def client(stack: Stack, bound: ModuleType) -> StrictClient:
    return StrictClient(stack, bound)


@pytest.fixture(scope="module")
def demo_images(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image]:
    """An ISO and a qcow2, registered as the demo does."""
    iso, qcow2 = (tmp_path_factory.mktemp("images") / name for name in ("boot.iso", "disk.qcow2"))
    iso.write_bytes(bytes(0x8001) + b"CD001\x01" + bytes(MIB))
    write_qcow2(qcow2, virtual_size=64 * MIB, data_bytes=2 * MIB, seed=4)
    return (
        stack.add_image(iso, id=7, format="ISO", name="A bootable ISO"),
        stack.add_image(qcow2, id=8, format="qcow2", name="A disk that boots"),
    )


def cloud_account(client: StrictClient, devcloud: DevCloud, name: str | None = None) -> Any:
    env = devcloud.env("uploader")
    platforms = client.get("users/root/targetplatforms", "TargetPlatforms").target_platforms.target_platform
    (openstack,) = [each for each in platforms if each.name == "openstack"]
    assert client.get(openstack.uri, "TargetPlatform") == openstack
    return client.bound.CredAccountOpenStack(
        name=name,
        target_platform=openstack,
        glance_url=devcloud.glance_url,
        keystone_url=devcloud.keystone_url,
        login=env["OS_USERNAME"],
        password=env["OS_PASSWORD"],
        keystone_version="v3",
    )


def publish(client: StrictClient, devcloud: DevCloud, image: Any, account: Any, name: str) -> Any:
    env = devcloud.env("uploader")
    wanted = client.bound.PublishImageOpenStack(
        image_uri=image.uri,
        cred_account=account,
        keystone_domain=env["OS_PROJECT_DOMAIN_NAME"],
        keystone_project=env["OS_PROJECT_NAME"],
        display_name=name,
    )
    return client.post(f"{image.uri}/pimages", client.render(wanted, "publishImage"), "PublishImage")


def test_strict_client_works_from_the_first_listing_to_deletion(
    client: StrictClient, stack: Stack, devcloud: DevCloud, glance: Glance, demo_images: tuple[Image, Image]
) -> None:
    bound = client.bound
    alive = client.get("status", "ServiceStatus", login=None)
    assert (alive.alive, alive.version) == (True, "3.8.13")
    nothing = client.get(PIMAGES, "PublishImages")
    assert (nothing.total, nothing.publish_images.publish_image) == (0, [])

    # Find everything by following the URIs of the user.
    user = client.get("users/root", "User")
    assert user.admin
    (appliance,) = client.get(user.base_appliances_uri, "Appliances").appliances.appliance
    assert (appliance.db_id, appliance.arch_name, appliance.version) == (4, "x86_64", "1")
    platforms = client.get(user.base_target_platforms_uri, "TargetPlatforms")
    assert [each.name for each in platforms.target_platforms.target_platform] == ["openstack"]
    assert platforms.total == 1
    formats = client.get(user.base_target_formats_uri, "TargetFormats").target_formats.target_format
    offered = {(each.name, each.format.name) for each in formats}
    assert {("openstack", "openstackqcow2"), ("raw", "raw"), ("iso", "ISO")} < offered

    # Choose the image for OpenStack, and find out how to publish it.
    (disk,) = client.get(appliance.base_images_uri + FOR_OPENSTACK, "Images").images.image
    (iso,) = client.get(f"{appliance.base_images_uri}?query=targetFormat.name%3D%3Diso", "Images").images.image
    assert (disk.name, disk.file_size, disk.status.complete) == (demo_images[1].name, demo_images[1].size, True)
    assert client.builder(disk) == "openstackqcow2"
    assert (iso.target_format.name, iso.target_format.type_value, iso.format.name) == ("iso", "physical", "ISO")
    assert disk.target_format.db_id in {each.db_id for each in formats}

    # Store an account, and refer to it as it is listed, without its secret.
    body = client.render(cloud_account(client, devcloud, "lab"), "credAccount")
    made = client.post(user.base_cred_accounts_uri, body, "CredAccount")
    assert (made.name, made.password, made.secrets_missing) == ("lab", None, True)
    (account,) = client.get(user.base_cred_accounts_uri, "CredAccounts").cred_accounts.cred_account
    assert type(account) is bound.CredAccountOpenStack

    # Publish with the stored account and with one in the request. An image for no cloud is published, too.
    tickets = [
        publish(client, devcloud, disk, account, "strict disk"),
        publish(client, devcloud, iso, cloud_account(client, devcloud), "strict ISO"),
    ]
    for ticket, registered in zip(tickets, reversed(demo_images), strict=True):
        assert type(ticket) is bound.PublishImageOpenStack
        assert type(ticket.cred_account) is bound.CredAccountOpenStack
        assert (ticket.cred_account.password, ticket.cred_account.secrets_missing) == (None, True)
        ended = client.wait(ticket)
        assert (ended.complete, ended.published, ended.error, ended.cancelled) == (True, True, False, False), ended
        assert (ended.percentage, ended.bytes_loaded) == (100, registered.size)
        published = client.get(ticket.uri, "PublishImage")
        assert (published.db_id, published.file_size) == (ticket.db_id, registered.size)
        assert hashlib.sha256(glance.data(published.cloud_id)).hexdigest() == registered.sha256
        assert client.get(published.image_uri, "Image").sha256sum == registered.sha256
        assert published.created.to_datetime().tzinfo is not None
    assert client.get(tickets[0].cred_account.uri, "CredAccount").name == "lab"
    # Download as existing clients do: without a login, from the URI in the answer.
    for download in (disk.download_uri, client.get(tickets[0].uri, "PublishImage").download_uri):
        file = stack.call("GET", download, login=None)
        assert (file.status, hashlib.sha256(file.body).hexdigest()) == (200, demo_images[1].sha256)
        client.refused("GET", download, 401, login=None)

    # No worker is left to claim another ticket: it is cancelled before it begins.
    for worker in stack.workers:
        worker.kill()
    other = publish(client, devcloud, disk, account, "strict once more")
    assert other.status.message == "Queued"
    listed = client.get(PIMAGES, "PublishImages")
    assert listed.total == 3
    assert {each.db_id for each in listed.publish_images.publish_image} == {each.db_id for each in (*tickets, other)}
    assert {type(each) for each in listed.publish_images.publish_image} == {bound.PublishImageOpenStack}
    statuses = client.get(f"{PIMAGES}/statuses", "Statuses")
    assert (statuses.total, len(statuses.statuses.status)) == (3, 3)
    going_on = client.refused("DELETE", other.uri, 409)
    assert "cancel it first" in going_on.localized_error_msg.message
    client.delete(f"{other.uri}/cancel")
    cancelled = client.wait(other)
    assert (cancelled.cancelled, cancelled.complete, cancelled.error) == (True, False, False)

    client.delete(account.uri)
    client.refused("GET", account.uri, 404)
    assert client.get(tickets[0].uri, "PublishImage").cred_account.target_platform.name == "openstack"
    for each in (*tickets, other):
        client.delete(each.uri)
        client.refused("GET", each.uri, 404)
    assert client.get(PIMAGES, "PublishImages").total == 0
    for image in (disk, iso):
        client.delete(image.uri)
        client.refused("GET", image.uri, 404)
    assert client.get(appliance.base_images_uri, "Images").total == 0


PLATFORM = "<dbId>1</dbId><name>{0}</name><type>{0}</type>"
FORMAT = "<dbId>1</dbId><name>{}</name><format><dbId>1</dbId><name>{}</name></format><type>{}</type>"


def test_strict_client_rejects_invalid_documents(client: StrictClient) -> None:
    """Otherwise the documents that other tests parse would prove nothing."""
    status = '<n:status xmlns:n="http://www.usharesoft.com/uforge"{}>{}</n:status>'
    whole = status.format(
        "",
        "<cancelled>false</cancelled><complete>false</complete><error>false</error><message>m</message>"
        "<percentage>7</percentage>",
    )
    assert client.parse(whole.encode(), "Status").percentage == 7
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


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("TargetPlatform", PLATFORM.format("openstack"), PLATFORM.format("memory")),
        ("TargetPlatform", PLATFORM.format("aws"), PLATFORM.format("aws").replace("<dbId>1</dbId>", "")),
        *(
            ("TargetFormat", FORMAT.format("openstack", "openstackqcow2", "cloud"), FORMAT.format(*wrong))
            for wrong in (
                ("openstack", "qcow2", "cloud"),
                ("openstack", "raw", "cloud"),
                ("memory", "raw", "cloud"),
                ("raw", "memorydisk", "virtual"),
                ("raw", "raw", "none"),
            )
        ),
        ("TargetFormat", FORMAT.format("raw", "raw", "virtual"), "<name>raw</name><type>virtual</type>"),
    ],
)
def test_strict_client_rejects_names_that_are_not_the_apis(
    client: StrictClient, kind: str, right: str, wrong: str
) -> None:
    root = kind[0].lower() + kind[1:]
    document = f'<n:{root} xmlns:n="http://www.usharesoft.com/uforge">{{}}</n:{root}>'
    assert client.parse(document.format(right).encode(), kind).db_id == 1
    with pytest.raises((Refused, etree.DocumentInvalid)):
        client.parse(document.format(wrong).encode(), kind)
