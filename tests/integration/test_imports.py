"""The service has a real Glance import images: those that it stages, and those that the cloud downloads by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from publisher.core.download_keys import ticket_key
from publisher.core.image import Image
from publisher.core.ticket import ticket_download_uri
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.integration.test_publish import assert_one_right_image
from tests.proxy import Proxy
from tests.servers.process import free_port
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    """A service that the cloud reaches, too."""
    port = free_port()
    where: dict[str, Any] = {"intake_port": port, "public_url": f"http://127.0.0.1:{port}"}
    with Stack.in_directory(tmp_path_factory.mktemp("imports"), redis.url, attempts_max=2, **where) as running:
        yield running


@pytest.fixture(scope="module")
def image(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Image:
    file = tmp_path_factory.mktemp("images") / "image.raw"
    file.write_bytes(os.urandom(8 * MIB))
    return stack.add_image(file, id=7)


def test_image_is_staged_and_imported(stack: Stack, image: Image, devcloud: DevCloud, glance: Glance) -> None:
    ticket = stack.publish(publish_body(devcloud, URI, importMethod="glance-direct"))
    assert stack.wait(ticket)["published"]
    assert_one_right_image(glance, ticket, image)


def test_cloud_downloads_the_image_by_a_link_that_works_once(
    stack: Stack, image: Image, devcloud: DevCloud, glance: Glance
) -> None:
    with Proxy(devcloud.glance_url) as proxy:
        body = publish_body(devcloud, URI, importMethod="web-download", account__glanceUrl=proxy.url)
        ticket = stack.publish(body)
        found = stack.store.tickets.get(ticket["dbId"])
        assert found is not None
        key = ticket_key(Vault.from_file(stack.settings.key_file), found, image)
        assert stack.wait(ticket)["published"]
        assert proxy.onward < MIB, "the image did not pass through the worker"
    assert_one_right_image(glance, ticket, image)
    link = ticket_download_uri("root", 4, ticket["dbId"], key)
    assert stack.call("GET", link, login=None).status == 401, "the link is used up"
    assert not [log for log in stack.logs.iterdir() if key in log.read_text()]
