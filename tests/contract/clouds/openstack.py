"""The real Keystone v3 and Glance, and the real Glance behind a Keystone v2.0."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from publisher.core.ticket import Account, Target
from publisher.devcloud.cloud import DevCloud
from tests.cloud_administration import Administrator
from tests.clouds import Glance, publish_body
from tests.contract.harness import Cloud, Harness, Obstacle
from tests.glance_behind_v2 import GlanceBehindV2
from tests.patience import PATIENCE
from workers.clouds.openstack.publisher import OpenStackPublisher

Rest = Callable[[str, str, Any], bytes]
"""Sends a request to Glance: method, path and document. Returns the body of the answer."""

_NAMES = {"hidden": "os_hidden", "minDisk": "min_disk", "minRam": "min_ram"}


@dataclass
class OpenStackHarness(Harness):
    rest: Rest | None = None

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        assert self.rest is not None
        return self.rest(method, path, body)

    def content(self, cloud_id: str) -> bytes:
        return self.ask("GET", f"/v2/images/{cloud_id}/file")

    def attributes(self, cloud_id: str) -> Mapping[str, Any]:
        record: dict[str, Any] = json.loads(self.ask("GET", f"/v2/images/{cloud_id}"))
        shown = {name: record[_NAMES.get(name, name)] for name in ("name", "tags", "visibility", "protected", *_NAMES)}
        members = []
        if shown["visibility"] == "shared":
            members = json.loads(self.ask("GET", f"/v2/images/{cloud_id}/members"))["members"]
        return {**shown, "properties": record, "sharedWith": [each["member_id"] for each in members]}


@contextmanager
def keystone_v3(cloud: DevCloud) -> Iterator[OpenStackHarness]:
    """The plugin with the development cloud, which it empties at the end."""
    body, glance = publish_body(cloud, ""), Glance(cloud)
    account = body["credAccount"]
    secrets = {"password": account["password"]}
    fields = {name: account[name] for name in ("keystoneUrl", "glanceUrl", "login", "keystoneVersion")}
    target = {name: body[name] for name in ("keystoneDomain", "keystoneProject", "displayName")}

    def rest(method: str, path: str, document: object) -> bytes:
        found: bytes = glance.rest(method, path, document, raw=True)
        return found

    with Administrator.of(cloud) as administrator:
        yield OpenStackHarness(
            OpenStackPublisher,
            Account("openstack", fields, secrets),
            Target("openstack", target),
            partner=administrator.project("default")["id"],
            rest=rest,
        )
        glance.empty()


@contextmanager
def _keystone_v3(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with keystone_v3(request.getfixturevalue("devcloud")) as harness:
        yield harness


@contextmanager
def _keystone_v2(request: pytest.FixtureRequest) -> Iterator[Harness]:
    cloud: GlanceBehindV2 = request.getfixturevalue("glance_v2")
    fields = {"keystoneUrl": cloud.auth_url, "login": "joe", "keystoneVersion": "v2.0"}
    target = {"tenantName": "lab", "displayName": "contract"}
    sign_in = {"tenantName": "lab", "passwordCredentials": {"username": "joe", "password": "good"}}

    def send(url: str, method: str, document: object, headers: dict[str, str]) -> bytes:
        body = None if document is None else json.dumps(document).encode()
        asked = urllib.request.Request(  # noqa: S310
            url, body, {"Content-Type": "application/json", **headers}, method=method
        )
        with urllib.request.urlopen(asked, timeout=60 * PATIENCE) as answer:  # noqa: S310
            found: bytes = answer.read()
        return found

    def rest(method: str, path: str, document: object) -> bytes:
        signed_in = json.loads(send(f"{cloud.auth_url}/tokens", "POST", {"auth": sign_in}, {}))
        token = signed_in["access"]["token"]["id"]
        return send(f"{cloud.glance.url}{path}", method, document, {"X-Auth-Token": token})

    account = Account("openstack", fields, {"password": "good"})
    harness = OpenStackHarness(OpenStackPublisher, account, Target("openstack", target), rest=rest)
    yield harness
    for each in json.loads(harness.ask("GET", "/v2/images?limit=1000"))["images"]:
        harness.ask("DELETE", f"/v2/images/{each['id']}")


@contextmanager
def _other_image(harness: Harness) -> Iterator[None]:
    assert isinstance(harness, OpenStackHarness)
    record = {"name": harness.target.fields["displayName"], "disk_format": "raw", "container_format": "bare"}
    made = json.loads(harness.ask("POST", "/v2/images", record))
    yield
    harness.ask("DELETE", f"/v2/images/{made['id']}")


_OBSTACLES = {
    "unknown format": Obstacle("nonsense", image={"disk_format": "nonsense"}),
    "unknown project": Obstacle("sharedWith", target={"sharedWith": ["0" * 8]}),
    "unknown store": Obstacle("store", target={"store": "moon"}),
    "name that is taken": Obstacle("displayName", target={"ifNameTaken": "refuse"}, arranged=_other_image),
    "no right to make it public": Obstacle("publicImage", target={"publicImage": True}, arranged=_other_image),
}
CLOUDS = [
    Cloud("keystone v3", _keystone_v3, _OBSTACLES, real=True),
    Cloud("keystone v2.0", _keystone_v2, real=True, other_sign_in=True),
]
