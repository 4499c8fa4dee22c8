"""A publication that cannot succeed fails with a message that its caller can act on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from publisher.core.image import Image
from publisher.devcloud.cloud import DevCloud
from tests import disks
from tests.cloud_administration import Administrator
from tests.clouds import Glance, publish_body
from tests.servers.redis import RedisServer
from tests.servers.tinyproxy import tinyproxy
from tests.stack import Stack

pytestmark = pytest.mark.real

MIB = 1 << 20


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    """One service for all tests of failures. Each test adds an image of its own."""
    with Stack.in_directory(tmp_path_factory.mktemp("failing"), redis.url, attempts_max=3) as running:
        yield running


@pytest.fixture
def small(failing: Stack, tmp_path: Path) -> Image:
    file = tmp_path / "small.raw"
    file.write_bytes(os.urandom(MIB))
    return failing.add_image(file)


def uri(image: Image) -> str:
    return f"users/root/appliances/4/images/{image.id}"


def assert_failed(stack: Stack, glance: Glance, body: dict[str, Any], *words: str) -> None:
    """Check that the ticket fails with a message that a person can act on, and leaves nothing in the cloud."""
    ticket = stack.publish(body)
    status = stack.wait(ticket)
    assert (status["error"], status["complete"], status["cancelled"]) == (True, False, False), status
    for word in words:
        assert word in status["errorMessage"], status["errorMessage"]
    assert "Traceback" not in str(status)
    for name in ("password", "applicationCredentialSecret"):
        assert body["credAccount"].get(name, "no secret") not in str(status)
    assert glance.images(ticket) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"account__password": "wrong-password"}, ["credAccount.login, credAccount.password"]),
        ({"account__login": "nobody"}, ["rejected the login 'nobody'"]),
        ({"keystoneDomain": "nowhere"}, ["keystoneDomain ('nowhere')"]),
        ({"keystoneProject": "nix"}, ["no project 'nix'", "may use: images"]),
        ({"sharedWith": {"project": ["nix"]}}, ["sharedWith: the login has no project 'nix'", "give the id instead"]),
        ({"store": "nix"}, ["store: this cloud does not offer 'nix'; give one of: fs"]),
        ({"publicImage": True}, ["policy forbids", "publicImage"]),
        ({"publishLocation": "Elsewhere", "account__glanceUrl": None}, ["region 'Elsewhere'", "glanceUrl"]),
        ({"account__glanceUrl": "http://127.0.0.1:9"}, ["Glance at http://127.0.0.1:9", "refused"]),
        ({"account__keystoneUrl": "http://127.0.0.1:9"}, ["Keystone at http://127.0.0.1:9", "refused", "3 attempts"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_of_the_cloud_names_the_element_or_address(
    failing: Stack, small: Image, devcloud: DevCloud, glance: Glance, changes: dict[str, Any], words: list[str]
) -> None:
    assert_failed(failing, glance, publish_body(devcloud, uri(small), **changes), *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"roles": [{"name": "reader"}]}, ["403", "no role that allows this"]),
        ({}, ["it may have expired", "create another"]),
    ],
    ids=["without the role", "expired"],
)
def test_an_application_credential_that_cannot_publish_fails_the_ticket(
    failing: Stack, small: Image, devcloud: DevCloud, given: dict[str, Any], words: list[str]
) -> None:
    with Administrator.of(devcloud) as administrator:
        project = administrator.project("default")
        joe = administrator.user("default", project)
        ends = datetime.now(UTC) + timedelta(seconds=2)
        given = given or {"expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%f")}
        made = administrator.application_credential(joe, project, **given)
        while "expires_at" in given and datetime.now(UTC) <= ends:
            time.sleep(0.1)
        without: dict[str, Any] = dict.fromkeys(("account__login", "account__password", "keystoneProject"))
        secret = {"account__applicationCredentialSecret": made["secret"]}
        body = publish_body(
            devcloud, uri(small), keystoneDomain=None, account__applicationCredentialId=made["id"], **without, **secret
        )
        admin = Glance(devcloud, "admin")
        assert_failed(failing, admin, body, *words)
        assert admin.rest("GET", f"/v2/images?owner={project['id']}")["images"] == []


def test_a_proxy_that_refuses_glance_fails_the_ticket(
    failing: Stack, small: Image, devcloud: DevCloud, glance: Glance
) -> None:
    keystone, image_service = (urlsplit(each) for each in (devcloud.keystone_url, devcloud.glance_url))
    assert keystone.port
    with tinyproxy(ports=[keystone.port]) as proxy:
        body = publish_body(devcloud, uri(small), account__proxyUrl=proxy.url)
        refused = f"the proxy {proxy.where} does not allow connections to {image_service.netloc} (403)"
        assert_failed(failing, glance, body, refused)
        assert keystone.netloc in proxy.asked_for


@pytest.mark.parametrize("what", ["vanished", "shorter", "longer", "a link"])
def test_a_changed_or_missing_image_file_fails_the_ticket(
    failing: Stack, small: Image, tmp_path: Path, devcloud: DevCloud, glance: Glance, what: str
) -> None:
    kept = failing.settings.images / small.location
    match what:
        case "vanished":
            kept.unlink()
            words = "no longer there"
        case "shorter":
            os.truncate(kept, MIB - 1)
            words = f"{MIB - 1} bytes, but {MIB} were registered"
        case "longer":
            os.truncate(kept, MIB + 1)
            words = f"{MIB + 1} bytes, but {MIB} were registered"
        case _:
            kept.unlink()
            kept.symlink_to(tmp_path / "small.raw")
            words = "cannot be opened"
    assert_failed(failing, glance, publish_body(devcloud, uri(small)), words)


def test_changed_content_is_detected_by_its_hash_and_removed(
    failing: Stack, small: Image, devcloud: DevCloud, glance: Glance
) -> None:
    (failing.settings.images / small.location).write_bytes(os.urandom(MIB))
    assert_failed(failing, glance, publish_body(devcloud, uri(small)), "sha512", "removed from the cloud")


def test_an_old_image_with_a_backing_file_is_refused(
    failing: Stack, tmp_path: Path, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "disk.qcow2"
    file.write_bytes(disks.qcow2())
    image = failing.add_image(file, format=None)
    # A qcow2 whose contents are in another file.
    with (failing.settings.images / image.location).open("r+b") as opened:
        opened.seek(8)
        opened.write((512).to_bytes(8, "big") + (11).to_bytes(4, "big"))
    assert_failed(failing, glance, publish_body(devcloud, uri(image)), "a backing file", "qemu-img convert -O qcow2")


@pytest.mark.own_cloud
def test_an_image_above_the_clouds_limit_fails_the_ticket(
    failing: Stack, devcloud: DevCloud, glance: Glance, tmp_path: Path
) -> None:
    file = tmp_path / "large.raw"
    file.write_bytes(os.urandom(48 * MIB))
    image = failing.add_image(file)
    devcloud.up(overrides={"DEFAULT": {"image_size_cap": str(8 * MIB)}})
    try:
        assert_failed(failing, glance, publish_body(devcloud, uri(image)), "413", "quota")
    finally:
        devcloud.up()
