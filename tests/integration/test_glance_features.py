"""What a real Glance offers beyond a plain upload: members, community images, stores and imports."""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import CloudError, InvalidRequest, PermanentCloudError
from publisher.core.image import Image
from publisher.core.ticket import Account, Target
from publisher.devcloud.cloud import DevCloud
from publisher.outbound.policy import EVERYWHERE
from publisher.platforms.openstack import OPENSTACK
from tests.cloud_administration import PASSWORD, Administrator
from tests.clouds import Glance, publish_body
from tests.contract.harness import MemoryJournal, record_of
from tests.integration.test_image_attributes import openstack
from tests.servers.answering import serving
from workers.clouds.base import CloudImage, Tags, TicketRef, Timeouts
from workers.clouds.openstack.images import GlanceImages
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.transfer import Transfer

pytestmark = pytest.mark.real


@pytest.fixture
def administrator(devcloud: DevCloud) -> Iterator[Administrator]:
    with Administrator.of(devcloud) as administrator:
        yield administrator


@pytest.fixture
def image(tmp_path: Path) -> tuple[Image, Path]:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(3 << 20))
    return record_of(file), file


@pytest.fixture
def ticket(devcloud: DevCloud) -> Iterator[TicketRef]:
    """A ticket whose images are deleted at the end."""
    journal = MemoryJournal()
    yield TicketRef(Tags(str(uuid.uuid4()), "features"), "pimages/1", "images/7", "appliances/4", journal)
    for cloud_id, state in journal.kept.items():
        if state != "gone":
            Glance(devcloud, "admin").delete(cloud_id)


def connect(devcloud: DevCloud, user: str = "uploader", **target: Any) -> OpenStackPublisher:
    """Connect as a user of the development cloud, to the user's own project."""
    body = publish_body(devcloud, "", user=user)
    fields = {name: body["credAccount"][name] for name in ("keystoneUrl", "login", "keystoneVersion")}
    into = {name: body[name] for name in ("keystoneDomain", "keystoneProject", "displayName")}
    account = Account("openstack", fields, {"password": body["credAccount"]["password"]})
    return OpenStackPublisher.connect(account, Target("openstack", into | target), Timeouts(10, 60, 60), EVERYWHERE)


def connect_as(devcloud: DevCloud, login: str, project: dict[str, Any], **target: Any) -> OpenStackPublisher:
    """Connect as somebody whom the administrator has created in the domain `default`."""
    account = Account("openstack", {"keystoneUrl": devcloud.keystone_url, "login": login}, {"password": PASSWORD})
    into = {"displayName": "features", "keystoneProject": project["id"]}
    return OpenStackPublisher.connect(account, Target("openstack", into | target), Timeouts(10, 60, 60), EVERYWHERE)


def publish(cloud: OpenStackPublisher, image: tuple[Image, Path], ticket: TicketRef) -> CloudImage:
    """Call what an attempt calls, in the same order."""
    record, file = image
    found = cloud.find(ticket)
    assert found is None or not found.complete
    cloud.check(record)
    with file.open("rb") as opened:
        transfer = Transfer(opened.fileno(), record.size)
        return cloud.finish(cloud.upload(record, replace(ticket, found=found), transfer), record)


def seen(devcloud: DevCloud, cloud_id: str) -> Any:
    return Glance(devcloud, "admin").rest("GET", f"/v2/images/{cloud_id}")


# Members --------------------------------------------------------------------------------------------------------------


def test_image_is_shared_with_projects_by_name_and_by_id(
    devcloud: DevCloud, administrator: Administrator, image: tuple[Image, Path], ticket: TicketRef
) -> None:
    own, second, foreign = (administrator.project("default") for _ in range(3))
    joe = administrator.user("default", own, second)["name"]
    shared = {"sharedWith": [second["name"], foreign["id"], second["id"]]}
    published = publish(connect_as(devcloud, joe, own, **shared), image, ticket)
    again = connect_as(devcloud, joe, own, **shared)
    found = again.find(ticket)
    assert found is not None
    assert again.finish(found, image[0]).cloud_id == published.cloud_id
    members = json.loads(openstack(devcloud, *("member", "list", published.cloud_id, "-f", "json"), user="admin"))
    assert {each["Member ID"]: each["Status"] for each in members} == {
        second["id"]: "pending",
        foreign["id"]: "pending",
    }
    assert seen(devcloud, published.cloud_id)["visibility"] == "shared"
    connect_as(devcloud, joe, own).delete(published.cloud_id, ticket.tags)
    ticket.journal.gone(published.cloud_id)


@pytest.mark.parametrize("answer", ["accepted", "rejected"])
def test_publication_waits_until_a_project_has_answered(
    devcloud: DevCloud,
    administrator: Administrator,
    image: tuple[Image, Path],
    ticket: TicketRef,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    own, theirs = administrator.project("default"), administrator.project("default")
    joe, ann = administrator.user("default", own), administrator.user("default", theirs)
    token = administrator.token({"id": ann["id"], "password": PASSWORD}, {"project": {"id": theirs["id"]}})
    members, seen = GlanceImages.members, []

    def read_and_answer(images: GlanceImages, cloud_id: str) -> dict[str, str]:
        found = members(images, cloud_id)
        seen.append(found)
        path = f"/v2/images/{cloud_id}/members/{theirs['id']}"
        Glance(devcloud).rest("PUT", path, {"status": answer}, token=token)
        return found

    monkeypatch.setattr(GlanceImages, "members", read_and_answer)
    cloud = connect_as(devcloud, joe["name"], own, sharedWith=[theirs["id"]], waitForAcceptance=True)
    if answer == "accepted":
        assert publish(cloud, image, ticket).complete
    else:
        with pytest.raises(PermanentCloudError, match=f"sharedWith: the project {theirs['id']} has rejected the image"):
            publish(cloud, image, ticket)
    assert seen == [{theirs["id"]: "pending"}, {theirs["id"]: answer}]
    (made,) = ticket.journal.entries()
    cloud.delete(made.cloud_id, ticket.tags)
    ticket.journal.gone(made.cloud_id)


def test_name_of_a_project_that_the_login_may_not_look_up_is_refused(
    devcloud: DevCloud, administrator: Administrator, image: tuple[Image, Path]
) -> None:
    own, foreign = administrator.project("default"), administrator.project("default")
    joe = administrator.user("default", own)["name"]
    for named in (foreign["name"], "there is no such project"):
        with pytest.raises(PermanentCloudError, match=f"sharedWith: the login has no project '{named}'.*give the id"):
            connect_as(devcloud, joe, own, sharedWith=[named]).check(image[0])


@pytest.mark.parametrize(
    ("named", "words"),
    [("0" * 32, "there is no project with the id"), ("no such project", "there is no project 'no such project'")],
)
def test_project_that_does_not_exist_is_refused_before_anything_is_created(
    devcloud: DevCloud, image: tuple[Image, Path], ticket: TicketRef, named: str, words: str
) -> None:
    with pytest.raises(PermanentCloudError, match=f"sharedWith: {words}"):
        publish(connect(devcloud, "admin", sharedWith=[named]), image, ticket)
    assert list(ticket.journal.entries()) == []


def test_image_can_be_for_the_community(devcloud: DevCloud, image: tuple[Image, Path], ticket: TicketRef) -> None:
    published = publish(connect(devcloud, visibility="community"), image, ticket)
    assert seen(devcloud, published.cloud_id)["visibility"] == "community"


def test_names_that_glance_has_for_itself_are_no_properties(devcloud: DevCloud) -> None:
    """Glance's schema has its own names and those of the properties that it describes for users."""
    schema = Glance(devcloud).rest("GET", "/v2/schemas/image")["properties"]
    own = {name for name, about in schema.items() if about.get("is_base", True)}
    assert {"id", "owner", "os_hidden", "os_hash_value", "self", "stores", "visibility"} <= own
    for name in own:
        with pytest.raises(InvalidRequest, match=rf"properties\[0\].name: '{name}' is reserved"):
            OPENSTACK.check_target({}, {"properties": [{"name": name, "value": "x"}]})
    for name in set(schema) - own - {"instance_uuid"}:
        OPENSTACK.check_target({}, {"properties": [{"name": name, "value": "x"}]})


# Stores and imports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "glance-direct"])
def test_image_goes_to_the_store_that_is_named(
    devcloud: DevCloud, image: tuple[Image, Path], ticket: TicketRef, method: str | None
) -> None:
    published = publish(connect(devcloud, store="fs", importMethod=method), image, ticket)
    assert published.hashes["sha512"] == image[0].sha512
    assert seen(devcloud, published.cloud_id)["stores"] == "fs"
    assert Glance(devcloud).data(published.cloud_id) == image[1].read_bytes()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"store": "moon"}, "store: this cloud does not offer 'moon'; give one of: fs"),
        (
            {"importMethod": "by-post"},
            "importMethod: this cloud does not offer 'by-post'; give one of: .*glance-direct",
        ),
    ],
)
def test_what_the_cloud_does_not_offer_is_refused(
    devcloud: DevCloud, image: tuple[Image, Path], target: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        connect(devcloud, **target).check(image[0])


@pytest.mark.parametrize("method", [None, "glance-direct"])
def test_image_that_glance_refuses_at_its_end_leaves_nothing_that_can_be_deleted(
    devcloud: DevCloud, image: tuple[Image, Path], ticket: TicketRef, method: str | None
) -> None:
    """Glance keeps the file itself: it has stored the bytes by then, and forgets where (docs/operations.md).

    So the publisher examines each file before it sends it. This test goes around that.
    """
    record, file = image
    cloud = connect(devcloud, importMethod=method)
    refused = "could not import the image: " if method else "does not accept the file as a qcow2 image"
    with pytest.raises(PermanentCloudError, match=refused):
        publish(cloud, (replace(record, disk_format="qcow2"), file), ticket)
    (left,) = ticket.journal.entries()
    cloud.delete(left.cloud_id, ticket.tags)
    ticket.journal.gone(left.cloud_id)
    assert list(cloud.tagged("features")) == []
    assert list((devcloud.directory / "glance" / "staging").glob(f"*{left.cloud_id}*")) == []
    assert locations(devcloud, left.cloud_id) == [], "Glance itself does not know where the file is"


def locations(devcloud: DevCloud, cloud_id: str) -> list[Any]:
    """Return the places of an image's files, as Glance's database has them."""
    with closing(sqlite3.connect(devcloud.directory / "glance" / "database.sqlite", timeout=60)) as database:
        wanted = "SELECT value FROM image_locations WHERE image_id = ? AND status != 'deleted'"
        return database.execute(wanted, (cloud_id,)).fetchall()


@pytest.fixture
def link(image: tuple[Image, Path]) -> Iterator[str]:
    """An address that serves the image's file, as the intake does with a key."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        found = handler.path == "/image?downloadId=the-key"
        body = image[1].read_bytes() if found else b""
        handler.send_response(200 if found else 404)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer, host="127.0.0.1") as url:
        yield f"{url}/image?downloadId=the-key"


def test_cloud_downloads_the_image_itself(
    devcloud: DevCloud, image: tuple[Image, Path], ticket: TicketRef, link: str
) -> None:
    cloud = connect(devcloud, importMethod="web-download", store="fs")
    published = publish(cloud, image, replace(ticket, link=link))
    assert (published.size, published.hashes["sha512"]) == (image[0].size, image[0].sha512)
    assert Glance(devcloud).data(published.cloud_id) == image[1].read_bytes()
    found = connect(devcloud).find(ticket)
    assert found is not None
    assert found.complete


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("=the-key", "=a-used-one"), "could not import the image"),
        (("127.0.0.1", "localhost"), "400: .*(filter|not allowed|URI)"),
    ],
    ids=["link that is used up", "host that the cloud does not allow"],
)
def test_download_that_fails_leaves_nothing_and_does_not_show_the_key(
    devcloud: DevCloud,
    image: tuple[Image, Path],
    ticket: TicketRef,
    link: str,
    change: tuple[str, str],
    words: str,
) -> None:
    wrong = link.replace(*change)
    cloud = connect(devcloud, importMethod="web-download")
    with pytest.raises(CloudError, match=words) as failed:
        publish(cloud, image, replace(ticket, link=wrong))
    assert wrong.partition("=")[2] not in str(failed.value)
    (left,) = ticket.journal.entries()
    cloud.delete(left.cloud_id, ticket.tags)
    ticket.journal.gone(left.cloud_id)
    assert list(cloud.tagged("features")) == []
