"""A package that nothing in the publisher knows brings a platform and its plugin (tests/third_party)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance
from tests.patience import PATIENCE
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, REPOSITORY, Stack

pytestmark = pytest.mark.real

PACKAGE = REPOSITORY / "tests" / "third_party"
INSTALLED = {"PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ["PYTHONPATH"]])}
JSON = "application/json"
IMAGE = "users/root/appliances/4/images/7"


@pytest.fixture(params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    settings = {}
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings["database_url"] = server.fresh()
    running = Stack.in_directory(tmp_path / "data", redis.url, workers=1, **settings)
    running.environment = INSTALLED
    with running:
        yield running
    if settings:
        server.drop(settings["database_url"])


def test_third_party_platform_publishes_and_is_offered_everywhere(
    stack: Stack, devcloud: DevCloud, glance: Glance, tmp_path: Path
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(1 << 20))
    stack.add_image(file, id=7)
    user = devcloud.env("uploader")
    added = subprocess.run(
        [sys.executable, "-m", "publisher.cli.main", "accounts", "add", "mine", "--platform", "nimbus",
         "--endpoint-url", devcloud.keystone_url, "--access-key", user["OS_USERNAME"], "--password-stdin"],
        cwd=REPOSITORY, env=os.environ | stack.settings.environment() | INSTALLED,
        input=user["OS_PASSWORD"] + "\n", text=True, capture_output=True, timeout=60 * PATIENCE, check=False,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr

    space = f"{user['OS_PROJECT_DOMAIN_NAME']}/{user['OS_PROJECT_NAME']}"
    ticket = stack.publish(
        {"imageUri": IMAGE, "displayName": "by a package", "space": space, "credAccount": {"name": "mine"}}
    )
    assert ticket["@type"] == "PublishImageNimbus"
    status = stack.wait(ticket)
    assert status["published"], status.get("errorMessage")
    (image,) = glance.images(ticket)
    assert (image["name"], image["status"]) == ("by a package", "active")
    assert hashlib.sha256(glance.data(image["id"])).digest() == hashlib.sha256(file.read_bytes()).digest()

    refused = stack.call("POST", f"{IMAGE}/pimages", b'{"credAccount": {"name": "mine"}}', content_type=JSON)
    assert (refused.status, refused.json["localizedErrorMsg"]["message"]) == (
        400,
        "space: is needed: the space that the image goes to, such as lab/web",
    )
    described = stack.call("GET", "openapi.json", login=None).json["components"]["schemas"]
    account = json.dumps(described["CredAccountNimbusRequest"])
    assert all(f'"{name}"' in account for name in ("endpointUrl", "accessKey", "secretKey"))
    schema = stack.call("GET", "schema/uforge.xsd?extensions=true", login=None).body
    assert b'name="CredAccountNimbus"' in schema
    assert b"Nimbus" not in stack.call("GET", "schema/uforge.xsd", login=None).body, "existing clients do not know it"
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.settings.intake_port}", timeout=30 * PATIENCE) as browser:
        entered = browser.post(
            "/console/sign-in", data={"login": "root", "password": PASSWORD}, headers={"Origin": str(browser.base_url)}
        )
        assert entered.status_code == 303, entered.text
        form = browser.get("/console/accounts/new?platform=nimbus").text
        assert 'name="accessKey"' in form
        assert 'name="secretKey" type="password"' in form
        assert "The part of Nimbus that the image goes to" in browser.get("/console/publications/new").text
