"""Images: the list, one image, uploading and fetching, and the actions on an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import update

from publisher.core.image import ImageState
from publisher.store.database import tickets, writing
from tests import disks
from tests.compressed import COMPRESS
from tests.service import IMAGES, Service, add_image
from tests.unit.console.conftest import Browser, Page, browse

Browsers = Callable[..., Browser]

BYTES = disks.qcow2()


def names(page: Page) -> list[str]:
    return [str(a.text) for a in page.root.xpath("//tbody//a[starts-with(@href, '/console/images/')]")]


def upload(browser: Browser, body: bytes | Iterator[bytes], token: str | None = None, **query: str) -> Page:
    answer = browser.client.post(
        "/console/images/upload",
        params=query,
        content=body,
        headers={
            "Content-Type": "application/octet-stream",
            "X-CSRF-Token": browser.get("/me").csrf if token is None else token,
        },
    )
    return Page(answer.status_code, answer.headers, answer.text)


def begin(service: Service, name: str = "fetched", owner: str = "alice") -> int:
    return service.store.registrations.begin(
        owner=owner, appliance_id=14, name=name, wanted_format="qcow2", source="https://h.example/a?token=secret"
    ).id


def test_the_list_shows_own_images_newest_first(browser: Browsers) -> None:
    assert names(browser("alice").get("/images")) == ["image 23", "image 22", "image 21"]
    everybody = browser("root").get("/images")
    assert len(names(everybody)) == len(IMAGES)
    assert "Owner" in everybody.words
    assert browser("carol").get("/images").status == 403


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=IMAGE+22", ["image 22"]),
        ("q=21", ["image 21"]),
        ("q=%25", []),
        ("state=queued", ["fetched"]),
        ("state=ready&q=image", ["image 23", "image 22", "image 21"]),
        ("state=nonsense&q=fetched", ["fetched"]),
        ("q=none+like+this", []),
        (f"before={22}", ["image 21"]),
    ],
)
def test_the_list_can_be_searched(fresh: Service, browser: Browsers, query: str, found: list[str]) -> None:
    begin(fresh)
    page = browser("alice").get(f"/images?{query}")
    assert page.status == 200
    assert names(page) == found


def test_the_list_is_paged(fresh: Service, browser: Browsers) -> None:
    for id in range(100, 160):
        add_image(fresh.store, id, "bob", 24)
    bob = browser("bob")
    first = bob.get("/images?q=image")
    assert len(names(first)) == 50
    (older,) = first.links("Older")
    second = bob.get(older.removeprefix("/console"))
    assert names(first)[-1] == "image 110"
    assert names(second) == [f"image {id}" for id in range(109, 99, -1)] + ["image 31"]
    assert second.links("Older") == []
    assert second.links("Newest") == ["/console/images?q=image"]


def test_an_image_s_page_shows_all_of_its_data(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish()
    page = browser("alice").get("/images/21")
    assert page.heading == "image 21"
    for words in ("qcow2", "2.0 GiB", "2" * 64, "f" * 128, "5" * 32):
        assert words in page.words
    assert f"/console/publications/{ticket.id}" in page.root.xpath("//main//a/@href")
    assert "/console/publications/new?image=21" in page.links("Publish")


def test_a_reused_number_shows_nothing_of_its_former_image(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish()
    with writing(fresh.store.engine) as connection:
        connection.execute(update(tickets).values(owner="bob", appliance_id=24))
    alice = browser("alice")
    assert f"/console/publications/{ticket.id}" not in alice.get("/images/21").text
    page = alice.get("/images/21/delete")
    assert "It was never published" in page.words
    assert f"ticket {ticket.id}" not in page.words


@pytest.mark.parametrize("path", ["", "/events", "/file", "/delete"])
def test_images_of_others_do_not_exist(browser: Browsers, path: str) -> None:
    alice = browser("alice")
    assert alice.get(f"/images/31{path}").status == alice.get(f"/images/999{path}").status == 404
    assert browser("root").get(f"/images/31{'' if path == '/events' else path}").status in (200, 409)


@pytest.mark.parametrize("path", ["again", "cancel", "delete"])
def test_changes_need_the_owner_and_the_token(fresh: Service, browser: Browsers, path: str) -> None:
    id = begin(fresh, owner="bob")
    assert browser("alice").post(f"/images/{id}/{path}").status == 404
    assert browser("bob").post(f"/images/{id}/{path}", csrf="wrong").status == 403
    image = fresh.store.images.get(id)
    assert image
    assert (image.state, image.revision) == (ImageState.QUEUED, 1)


def test_an_uploaded_image_can_be_downloaded(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    pieces = (BYTES[at : at + 1000] for at in range(0, len(BYTES), 1000))
    answer = upload(alice, pieces, name="Sent ", appliance="14", file_name="sent.qcow2")
    assert answer.status == 201, answer.text
    image = fresh.store.images.latest(1)[0]
    assert f'"/console/images/{image.id}"' in answer.text
    assert (image.owner, image.appliance_id, image.name, image.format) == ("alice", 14, "Sent", "openstackqcow2")
    assert image.sha256 == hashlib.sha256(BYTES).hexdigest()
    page = alice.get(f"/images/{image.id}")
    assert "uploaded." in page.words, "the page that the script goes to says so"
    file = alice.client.get(f"/console/images/{image.id}/file")
    assert file.content == BYTES
    assert 'filename="sent.qcow2"' in file.headers["content-disposition"]
    beyond = alice.get(f"/images/{image.id}/file", Range=f"bytes={len(file.content)}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(file.content)}")
    assert "Range not available" in beyond.text
    assert fresh.store.audit.latest(1)[0].action == "image.create"
    assert list((fresh.settings.images / ".incoming").iterdir()) == []


def test_an_upload_without_an_appliance_creates_one(fresh: Service, browser: Browsers) -> None:
    assert upload(browser("alice"), BYTES, file_name="a").status == 201
    assert fresh.store.images.latest(1)[0].appliance_id == 16


@pytest.mark.parametrize(
    ("query", "body", "status", "words"),
    [
        ({"file_name": "a"}, b"", 400, "is empty"),
        ({"file_name": "a", "format": "raw"}, BYTES, 400, "'raw' means a raw file"),
        ({"file_name": "a", "format": "none"}, BYTES, 400, "'none' is unknown"),
        ({"name": "n" * 256}, BYTES, 400, "Name has 1 to 255"),
        ({"file_name": "a", "appliance": "x"}, BYTES, 400, "Appliance is not the number"),
        ({"file_name": "a", "appliance": "9" * 19}, BYTES, 400, "Appliance is not the number"),
        ({"file_name": "a", "name": "  "}, BYTES, 400, "Name consists of blanks only"),
        ({"file_name": "a", "name": "a\nb"}, BYTES, 400, "Name has a line break"),
        ({"file_name": "a", "sha256sum": "x"}, BYTES, 400, "SHA-256 is no sha256 checksum"),
        ({"file_name": "a", "sha256sum": "0" * 64}, BYTES, 400, "SHA-256: the image's sha256 is "),
        ({"file_name": "a.xz"}, COMPRESS["xz"](BYTES)[:-3], 400, "the xz file is incomplete"),
        ({"file_name": "a"}, bytes(20001), 413, "larger than 20000 bytes"),
    ],
)
def test_the_script_gets_the_error_of_an_upload(
    start: Callable[..., Service], query: dict[str, str], body: bytes, status: int, words: str
) -> None:
    service = start(upload_bytes_max=20000)
    answer = upload(browse(service, "alice"), body, **query)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert words in answer.text
    assert len(service.store.images.list()) == len(IMAGES)
    incoming = service.settings.images / ".incoming"
    assert not incoming.exists() or list(incoming.iterdir()) == []


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_upload_is_unpacked(fresh: Service, browser: Browsers, kind: str) -> None:
    sha256 = hashlib.sha256(BYTES).hexdigest()
    answer = upload(browser("alice"), COMPRESS[kind](BYTES), file_name=f"web.qcow2.{kind}", sha256sum=sha256)
    assert answer.status == 201, answer.text
    image = fresh.store.images.latest(1)[0]
    assert (image.name, image.file_name, image.sha256) == ("web", "web.qcow2", sha256)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sha256sum": "x"}, "SHA-256 is no sha256 checksum"),
        ({"name": " "}, "Name consists of blanks only"),
        ({"name": "a\nb"}, "Name has a line break"),
    ],
)
def test_an_error_in_a_fetch_request_is_shown(
    fresh: Service, browser: Browsers, given: dict[str, str], words: str
) -> None:
    file = fresh.settings.images / "base.qcow2"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(BYTES)
    answer = browser("alice").post("/images/new", {"location": "base.qcow2", "appliance": "14"} | given)
    assert answer.status == 400
    assert words in answer.text
    assert fresh.waker.images == []


def test_a_form_is_not_taken_for_an_image(browser: Browsers) -> None:
    alice = browser("alice")
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-CSRF-Token": alice.get("/me").csrf}
    answer = alice.client.post("/console/images/upload?file_name=a", content=b"a=b", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/json")
    assert "application/octet-stream" in answer.json()["message"]


def test_an_upload_needs_the_token(fresh: Service, browser: Browsers) -> None:
    assert upload(browser("alice"), BYTES, token="wrong", file_name="a").status == 403
    assert upload(browser("carol"), BYTES, file_name="a").status == 403
    stranger = browser()
    assert upload(stranger, BYTES, token="", file_name="a").status == 303
    assert len(fresh.store.images.list()) == len(IMAGES)


def test_an_image_is_fetched_from_its_location(fresh: Service, browser: Browsers) -> None:
    file = fresh.settings.images / "disks" / "base.qcow2"
    file.parent.mkdir(parents=True)
    file.write_bytes(BYTES)
    alice = browser("alice")
    answer = alice.post("/images/new", {"location": "disks/base.qcow2", "appliance": "14", "format": "qcow2"})
    image = fresh.store.images.latest(1)[0]
    assert (answer.status, answer.location) == (303, f"/console/images/{image.id}")
    assert (image.source, image.wanted_format, image.state) == ("disks/base.qcow2", "openstackqcow2", ImageState.QUEUED)
    assert fresh.waker.images == [image.id]
    page = alice.get(f"/images/{image.id}")
    assert page.root.xpath("//main/@data-live") == [f"/console/images/{image.id}/events"]

    assert alice.post(f"/images/{image.id}/cancel").status == 303
    assert "cancelled" in alice.get(f"/images/{image.id}").words
    assert alice.post(f"/images/{image.id}/again").status == 303
    again = fresh.store.images.get(image.id)
    assert again
    assert (again.state, again.revision) == (ImageState.QUEUED, 2)
    assert fresh.waker.images == [image.id, image.id]
    actions = [each.action for each in fresh.store.audit.latest(3)]
    assert actions == ["image.generate", "image.cancel", "image.create"]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"location": ""}, "location", "Location is needed"),
        ({"location": "../secret"}, "location", "no such file"),
        ({"location": "https://elsewhere.example/a"}, "location", "not among PUBLISHER_LOCATION_HOSTS"),
    ],
)
def test_an_error_in_a_location_is_shown(browser: Browsers, fields: dict[str, str], field: str, words: str) -> None:
    page = browser("alice").post("/images/new", fields)
    assert page.status == 400
    assert words in page.root.xpath(f"string(//p[@id='{field}-wrong'])")


def test_the_source_is_shown_without_its_query(fresh: Service, browser: Browsers) -> None:
    page = browser("alice").get(f"/images/{begin(fresh)}")
    assert "https://h.example/a" in page.words
    assert "token" not in page.text


def test_deletion_explains_its_effects_first(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    upload(alice, BYTES, file_name="a.qcow2")
    image = fresh.store.images.latest(1)[0]
    page = alice.get(f"/images/{image.id}/delete")
    assert "Its file (12.0 KiB) is deleted" in page.words
    assert "It was never published" in page.words
    assert alice.post(f"/images/{image.id}/delete").location == "/console/images"
    assert fresh.store.images.get(image.id) is None
    assert not (fresh.settings.images / image.location).exists()
    assert fresh.store.audit.latest(1)[0].action == "image.delete"


def test_a_needed_image_is_not_deleted(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish()
    alice = browser("alice")
    page = alice.get("/images/21/delete")
    assert f"ticket {ticket.id} still needs it" in page.words
    assert page.root.xpath("//button[contains(@class, 'danger')]") == []
    assert alice.post("/images/21/delete").status == 409
    assert fresh.store.images.get(21) is not None


def test_a_file_that_the_service_did_not_create_stays(fresh: Service, browser: Browsers) -> None:
    assert "Its file stays" in browser("alice").get("/images/21/delete").words


def test_each_action_needs_its_own_entitlement(fresh: Service, browser: Browsers) -> None:
    fresh.store.users.add("reader", "x", entitlements=frozenset({"image_generate"}))
    add_image(fresh.store, 77, "reader", 1)
    reader = browser()
    reader.sign_in("reader", "x")
    page = reader.get("/images/77")
    assert page.status == 200
    assert page.links("Publish") == []
    assert page.links("Delete") == []
    token = reader.get("/me").csrf
    assert reader.get("/images/77/delete").status == reader.post("/images/77/delete", csrf=token).status == 403
