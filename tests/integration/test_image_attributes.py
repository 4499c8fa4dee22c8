"""Image attributes in a real Glance, as the `openstack` command reads them back."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import Account, State, Target, Ticket
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from publisher.outbound.policy import EVERYWHERE
from publisher.store import AccountGiven, Store
from tests.clouds import Glance
from tests.patience import PATIENCE
from tests.records import add_image, add_ticket, current
from workers.clouds.base import CloudImage, Tags, Timeouts
from workers.clouds.openstack.publisher import Found, OpenStackPublisher
from workers.runner import Runner

pytestmark = pytest.mark.real

PROPERTIES = {"os_distro": "debian", "hw/bus~x": "a=b c", "long": "x" * 4096, "wé": "ß"}
ATTRIBUTES: dict[str, Any] = {
    "properties": [{"name": name, "value": value} for name, value in PROPERTIES.items()],
    "tags": ["golden", "wé b"],
    "hidden": True,
    "minDisk": 20,
    "minRam": 512,
    "protected": True,
    "visibility": "community",
}


class Publications:
    """Tickets for the development cloud, each published by a runner of its own."""

    def __init__(self, store: Store, directory: Path, cloud: DevCloud) -> None:
        self.store = store
        self.cloud = cloud
        self._settings = Settings(data_dir=directory, progress_seconds=0.02)
        self._vault = Vault.from_file(self._settings.key_file)
        self._image: Image = add_image(store, self._settings.images, os.urandom(3 << 20))

    def account(self, user: str = "uploader") -> Account:
        env = self.cloud.env(user)
        fields = {"keystoneUrl": self.cloud.keystone_url, "login": env["OS_USERNAME"]}
        return Account("openstack", fields, {"password": env["OS_PASSWORD"]})

    def target(self, user: str = "uploader", **attributes: Any) -> dict[str, Any]:
        env = self.cloud.env(user)
        where = {"keystoneDomain": env["OS_PROJECT_DOMAIN_NAME"], "keystoneProject": env["OS_PROJECT_NAME"]}
        return {**where, "displayName": "with attributes", **attributes}

    def add(self, user: str = "uploader", **attributes: Any) -> Ticket:
        account = self.account(user)
        return add_ticket(
            self.store,
            image_size=self._image.size,
            platform="openstack",
            account=account.fields,
            sealed_secrets=self._vault.seal(account.secrets),
            target=self.target(user, **attributes),
        )

    def withdraw(self, ticket: Ticket) -> None:
        account = self.account()
        given = AccountGiven(account.fields, self._vault.seal(account.secrets))
        self.store.tickets.request_withdrawal(ticket.id, given)

    def run(self, ticket: Ticket) -> State | None:
        return Runner(self.store, self._vault, self._settings, worker="w").run(ticket.id)

    def connect(self, **attributes: Any) -> OpenStackPublisher:
        target = Target("openstack", self.target(**attributes))
        return OpenStackPublisher.connect(self.account(), target, Timeouts(10, 60, 60), EVERYWHERE)

    def deployed(self) -> list[str]:
        """Return the ids of all images of this installation, as the sweeper finds them."""
        cloud = self.connect(hidden=True)
        try:
            return [each.cloud_id for each in cloud.tagged(self.store.deployment)]
        finally:
            cloud.close()


@pytest.fixture
def publications(sqlite_store: Store, tmp_path: Path, devcloud: DevCloud) -> Iterator[Publications]:
    made = Publications(sqlite_store, tmp_path, devcloud)
    yield made
    glance = Glance(devcloud)
    for cloud_id in made.deployed():
        record = glance.rest("GET", f"/v2/images/{cloud_id}")
        if record["protected"]:
            openstack(devcloud, "set", "--unprotected", cloud_id)
        glance.delete(cloud_id)


def openstack(cloud: DevCloud, *arguments: str, user: str = "uploader") -> str:
    """Run `openstack image …`, and return what it prints."""
    command = [str(cloud.openstack()), "image", *arguments]
    run = subprocess.run(
        command, env=os.environ | cloud.env(user), capture_output=True, text=True, timeout=120 * PATIENCE, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def shown(cloud: DevCloud, ticket: Ticket, user: str = "uploader") -> dict[str, Any]:
    """Return a ticket's image as the `openstack` command shows it."""
    assert ticket.cloud_id
    record: dict[str, Any] = json.loads(openstack(cloud, "show", ticket.cloud_id, "-f", "json", user=user))
    properties: dict[str, Any] = record.pop("properties")
    return record | properties


def test_each_attribute_is_read_back(publications: Publications, devcloud: DevCloud) -> None:
    ticket = publications.add(**ATTRIBUTES)
    assert publications.run(ticket) is State.PUBLISHED
    published = current(publications.store, ticket)
    record = shown(devcloud, published)
    assert {name: record[name] for name in PROPERTIES} == PROPERTIES
    assert sorted(record["tags"]) == ["golden", "wé b"]
    assert (record["min_disk"], record["min_ram"], record["visibility"]) == (20, 512, "community")
    assert (record["protected"], record["os_hidden"]) == (True, True)
    assert publications.deployed() == [published.cloud_id], "the sweeper sees hidden images, too"


@pytest.mark.parametrize(
    ("user", "target", "visibility"),
    [
        ("uploader", {}, "private"),
        ("uploader", {"visibility": "shared"}, "shared"),
        ("admin", {"visibility": "public"}, "public"),
    ],
)
def test_each_visibility_is_read_back(
    publications: Publications, devcloud: DevCloud, user: str, target: dict[str, Any], visibility: str
) -> None:
    ticket = publications.add(user, **target)
    assert publications.run(ticket) is State.PUBLISHED
    published = current(publications.store, ticket)
    record = shown(devcloud, published, user)
    assert published.cloud_id
    Glance(devcloud, user).delete(published.cloud_id)
    assert (record["visibility"], record["protected"], record["min_disk"]) == (visibility, False, 1)


def test_a_visibility_that_the_cloud_refuses_leaves_nothing(publications: Publications) -> None:
    ticket = publications.add(visibility="public", tags=["a"])
    assert publications.run(ticket) is State.FAILED
    error = current(publications.store, ticket).error or ""
    assert error.startswith("visibility: this cloud's policy forbids the login to make images public")
    assert publications.deployed() == []


def test_a_cancel_after_the_protection_leaves_nothing(
    publications: Publications, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = publications.add(hidden=True, protected=True)
    finish = OpenStackPublisher.finish
    protected: list[bool] = []

    def finish_and_cancel(cloud: OpenStackPublisher, uploaded: CloudImage, image: Image) -> CloudImage:
        finished = finish(cloud, uploaded, image)
        protected.append(Glance(publications.cloud).rest("GET", f"/v2/images/{finished.cloud_id}")["protected"])
        publications.store.tickets.request_cancel(ticket.id)
        return finished

    monkeypatch.setattr(OpenStackPublisher, "finish", finish_and_cancel)
    assert publications.run(ticket) is State.CANCELLED
    assert protected == [True]
    assert publications.deployed() == []


def test_a_withdrawal_finds_images_that_somebody_has_hidden(publications: Publications) -> None:
    """Glance lists hidden images only on request. The ticket asked for none, and the second is in no journal."""
    ticket = publications.add()
    assert publications.run(ticket) is State.PUBLISHED
    published = current(publications.store, ticket)
    glance = Glance(publications.cloud)
    leftover = str(uuid.uuid4())
    tags = {"publisher_ticket": ticket.uid, "publisher_deployment": publications.store.deployment}
    glance.rest("POST", "/v2/images", {"id": leftover, "os_hidden": True, "publisher_cloud_id": leftover, **tags})
    glance.rest("PATCH", f"/v2/images/{published.cloud_id}", [{"op": "add", "path": "/os_hidden", "value": True}])
    assert set(publications.deployed()) == {leftover, published.cloud_id}
    publications.withdraw(ticket)
    assert publications.run(ticket) is State.WITHDRAWN
    assert publications.deployed() == []


def test_an_image_that_differs_is_corrected_once(publications: Publications, devcloud: DevCloud) -> None:
    ticket = publications.add(**ATTRIBUTES)
    assert publications.run(ticket) is State.PUBLISHED
    cloud_id = current(publications.store, ticket).cloud_id
    assert cloud_id
    openstack(
        *(devcloud, "set", "--unprotected", "--private", "--min-ram", "1", "--tag", "theirs"),
        *("--property", "os_distro=other", "--property", "theirs=kept", cloud_id),
    )
    glance = Glance(devcloud)
    record = publications.store.images.get(ticket.image_id)
    assert record
    cloud = publications.connect(**ATTRIBUTES)
    changed = ""
    for _ in range(2):
        found = glance.rest("GET", f"/v2/images/{cloud_id}")
        cloud.finish(Found(cloud_id, complete=True, record=found), record)
        found = glance.rest("GET", f"/v2/images/{cloud_id}")
        assert changed in ("", found["updated_at"]), "it was changed once"
        assert (found["protected"], found["visibility"], found["min_ram"]) == (True, "community", 512)
        assert sorted(found["tags"]) == ["golden", "theirs", "wé b"]
        assert (found["os_distro"], found["theirs"]) == ("debian", "kept")
        changed = found["updated_at"]
    cloud.release(cloud_id, Tags("another ticket", publications.store.deployment))
    assert glance.rest("GET", f"/v2/images/{cloud_id}")["protected"], "it is no image of that ticket"
    cloud.close()
