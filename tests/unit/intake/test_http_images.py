"""Generated images: get, list and delete them, and read their status."""

from __future__ import annotations

import os
import uuid
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from publisher.core.image import Image, ImageState
from publisher.services import image_files
from publisher.store.database import images, writing
from tests.service import JSON, Service, image_uri, ticket_path

APPLIANCE = "users/alice/appliances/14"
ALICE = f"{APPLIANCE}/images"
DELETIONS = {"one": f"{ALICE}/21", "all": ALICE}


def change(service: Service, image: int, **values: Any) -> None:
    with writing(service.store.engine) as connection:
        connection.execute(update(images).where(images.c.id == image).values(values))


def add_file(service: Service, name: str = "disk.raw", content: bytes = b"a disk", **values: Any) -> Image:
    """Register a file as an image of alice's appliance 14. The service keeps it under the image root."""
    file = service.settings.data_dir / name
    file.write_bytes(content)
    return image_files.register(
        service.store, service.settings.images, file, owner="alice", appliance_id=14, format="raw", **values
    )


def path_of(image: Image) -> str:
    return f"users/{image.owner}/appliances/{image.appliance_id}/images/{image.id}"


def ids(listed: Any) -> list[int]:
    return [each["dbId"] for each in listed["images"]["image"]]


@pytest.mark.parametrize(
    ("parameters", "total", "found"),
    [
        ("query=targetFormat.name%3D%3D%27openstack%27&count=1&offset=1&orderBy=name", 2, [23]),
        ("query=name%3D%3D%27*21%27", 1, [21]),
        ("descending=true", 2, [23, 21]),
    ],
)
def test_list_is_filtered_ordered_and_paged(service: Service, parameters: str, total: int, found: list[int]) -> None:
    listed = service.get(f"{ALICE}?{parameters}", login="alice", accept=JSON).json
    assert (listed["total"], ids(listed)) == (total, found)
    for path in (ALICE, "users/alice/appliances"):
        assert service.get(f"{path}?orderBy=colour", login="alice").problem().startswith("orderBy: ")


# Get and list -----------------------------------------------------------------------------------------------------


def test_image_document_has_the_expected_values(service: Service) -> None:
    got = service.get(image_uri(21), login="alice", accept=JSON)
    assert got.status == 200
    found = got.json
    assert (found["dbId"], found["name"], found["uri"]) == (21, "image 21", image_uri(21))
    assert (found["distributionName"], found["version"], found["revision"]) == ("unknown", "1", 1)
    assert (found["targetFormat"]["name"], found["format"]["name"]) == ("openstack", "openstackqcow2")
    assert (found["status"]["complete"], found["status"]["error"], found["status"]["cancelled"]) == (True, False, False)
    assert found["downloadUri"] == f"{image_uri(21)}/downloads/disk.qcow2?downloadId={found['downloadKey']}"
    in_xml = service.get(image_uri(21), login="alice").xml
    assert in_xml.findtext("downloadKey") == found["downloadKey"]
    again = service.get(image_uri(21), login="alice", accept=JSON, headers={"If-None-Match": got.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    since = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert service.get(image_uri(21), login="alice", headers=since).status == 304


def test_lists_have_the_images_of_an_appliance_or_a_user(service: Service) -> None:
    one = service.get(image_uri(21), login="alice", accept=JSON).json
    of_appliance = service.get(ALICE, login="alice", accept=JSON).json
    assert (of_appliance["total"], ids(of_appliance)) == (2, [21, 23])
    assert of_appliance["images"]["image"][0] == one
    of_user = service.get("users/alice/images", login="alice", accept=JSON).json
    assert ids(of_user) == [21, 22, 23]
    statuses = service.get(f"{ALICE}/statuses", login="alice", accept=JSON).json
    assert (statuses["total"], statuses["statuses"]["status"][0]) == (2, one["status"])
    assert service.get(f"{ALICE}/21/status", login="alice", accept=JSON).json == one["status"]
    for path in (ALICE, f"{ALICE}/statuses", "users/alice/images"):
        etag = service.get(path, login="alice").headers["etag"]
        assert service.get(path, login="alice", headers={"If-None-Match": etag}).status == 304
    assert service.get("users/carol/images", login="root").text("total") == "0"


@pytest.mark.parametrize(
    ("img", "found"),
    [("21", [21]), (image_uri(22), [22]), (f"/api/{image_uri(22)}", [22]), ("31", []), (image_uri(31), []), ("99", [])],
)
def test_img_parameter_selects_one_image(service: Service, img: str, found: list[int]) -> None:
    assert ids(service.get(f"users/alice/images?img={img}", login="alice", accept=JSON).json) == found


def test_invalid_img_parameter_is_refused(service: Service) -> None:
    refused = service.get("users/alice/images?img=twenty", login="alice")
    assert refused.status == 400
    assert refused.problem().startswith("img: ")


@pytest.mark.parametrize(
    "path",
    [
        f"{ALICE}/22",  # of another appliance
        f"{ALICE}/31",  # bob's
        f"{ALICE}/99/status",
        f"{ALICE}/22/pimages",
        "users/alice/appliances/99/images",
        "users/alice/appliances/99/images/statuses",
        "users/alice/appliances/24/images",  # bob's
        "users/bob/appliances/24/images",
        f"{image_uri(31)}",
        "users/bob/images",
        f"{ALICE}/0",
        f"{ALICE}/021",
    ],
)
def test_unknown_image_is_not_found(service: Service, path: str) -> None:
    refused = service.get(path, login="alice")
    assert refused.status == 404
    assert refused.problem()


def test_image_routes_require_entitlements(service: Service) -> None:
    entitled = {
        "appliance_create": ["appliances/1/images", "appliances/1/images/1", "appliances/1/images/1/status",
                             "appliances/1/images/statuses", "appliances/1/images/1/pimages"],
        "image_generate": ["images"],
    }  # fmt: skip
    for entitlement, paths in entitled.items():
        for path in paths:
            refused = service.get(f"users/carol/{path}", login="carol")
            assert refused.status == 403
            assert entitlement in refused.problem()
    for path in ("appliances/1/images", "appliances/1/images/1"):
        assert service.call("DELETE", f"users/carol/{path}", login="carol").status == 403


STATES: dict[ImageState, tuple[str, str | None, dict[str, Any]]] = {
    ImageState.QUEUED: ("Queued", None, {}),
    ImageState.FETCHING: ("Fetching 1 of 4 MiB", None, {"sent": 1 << 20, "total": 4 << 20}),
    ImageState.FAILED: ("Failed", "the file ended too early", {"error": "the file ended too early"}),
    ImageState.CANCELLED: ("Cancelled", None, {"wanted_format": "qcow2"}),
}


@pytest.mark.parametrize("state", STATES)
def test_image_that_is_not_ready_has_a_status_but_no_download(fresh: Service, state: ImageState) -> None:
    message, error, values = STATES[state]
    plain: dict[str, Any] = {
        "size": 0,
        "md5": "",
        "sha256": "",
        "sha512": "",
        "format": "",
        "location": "",
        "sent": 0,
        "total": 0,
    }
    change(fresh, 21, state=state, registered=None, **(plain | values))
    found = fresh.get(image_uri(21), login="alice", accept=JSON).json
    status = found["status"]
    assert (status["message"], status.get("errorMessage")) == (message, error)
    assert (status["error"], status["cancelled"]) == (state is ImageState.FAILED, state is ImageState.CANCELLED)
    assert not status["complete"]
    assert not {"downloadUri", "downloadKey", "fileName"} & set(found)
    # Clients list images in every state and expect these elements.
    assert (found["size"], found["fileSize"]) == (0, 0)
    shown = ("raw", 203324, "raw") if "wanted_format" not in values else ("openstack", 101315, "openstackqcow2")
    target = found["targetFormat"]
    assert (target["name"], target["dbId"], target["format"]["name"]) == shown
    assert found["format"] == target["format"]
    query = quote(f"targetFormat.name=='{shown[0]}';format.name=='{shown[2]}'")
    assert 21 in ids(fresh.get(f"{ALICE}?query={query}", login="alice", accept=JSON).json)
    assert fresh.get(image_uri(21), login="alice").status == 200
    assert fresh.get(f"{image_uri(21)}/downloads", login="alice").status == 409


@pytest.mark.long
def test_every_uri_can_be_requested(fresh: Service) -> None:
    image = add_file(fresh, "a #1 \u00e9?&.raw")
    ticket = fresh.publish(login="alice", image=21)
    walked = set()

    def walk(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, key)
        elif isinstance(value, list):
            for each in value:
                walk(each, name)
        elif name.endswith(("Uri", "uri")) and value not in walked:
            walked.add(value)
            # A file has no further URIs, and image 21 has no file.
            if value.rpartition("/")[2] in ("targetplatforms", "targetformats") or "/downloads" in value:
                return
            answer = fresh.get(value, login="alice", accept=JSON)
            assert answer.status == 200, value
            walk(answer.json)

    for path in ("users/alice", path_of(image), ticket_path(ticket), "users/alice/appliances/14"):
        walk(fresh.get(path, login="alice", accept=JSON).json)
    assert len(walked) > 15
    uri = fresh.get(path_of(image), login="alice", accept=JSON).json["downloadUri"]
    assert fresh.get(uri, login=None).body == b"a disk"


def test_image_lists_its_own_publications(fresh: Service) -> None:
    tickets = [fresh.publish(login="alice", image=21) for _ in range(2)]
    fresh.publish(login="alice", image=23)
    listed = fresh.get(f"{ALICE}/21/pimages", login="alice", accept=JSON).json
    assert [each["dbId"] for each in listed["publishImages"]["publishImage"]] == [each.id for each in tickets]


# Delete -----------------------------------------------------------------------------------------------------------


def test_delete_removes_the_file_too(fresh: Service) -> None:
    image, kept = add_file(fresh), add_file(fresh, "other.raw")
    root = fresh.settings.images
    assert fresh.call("DELETE", path_of(image), login="alice").status == 204
    assert not (root / image.location).parent.exists()
    assert (root / kept.location).exists()
    assert fresh.get(path_of(image), login="alice").status == 404
    assert fresh.call("DELETE", path_of(image), login="alice").status == 404


def test_delete_keeps_files_that_the_service_did_not_create(fresh: Service) -> None:
    root = fresh.settings.images
    for location in ("gold/disk.raw", f"{uuid.uuid4().hex}/deeper/disk.raw", "disk.raw"):
        file = root / location
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"kept")
        image = image_files.register(fresh.store, root, file, owner="alice", appliance_id=14, format="raw")
        assert fresh.call("DELETE", path_of(image), login="alice").status == 204
        assert file.exists()


def test_delete_keeps_a_file_that_another_image_uses(fresh: Service) -> None:
    image = add_file(fresh)
    file = fresh.settings.images / image.location
    second = image_files.register(fresh.store, fresh.settings.images, file, owner="bob", appliance_id=24, format="raw")
    assert fresh.call("DELETE", path_of(image), login="alice").status == 204
    assert file.exists()
    assert fresh.call("DELETE", path_of(second), login="bob").status == 204
    assert not file.parent.exists()


def test_delete_does_not_follow_links(fresh: Service) -> None:
    image = add_file(fresh)
    directory = (fresh.settings.images / image.location).parent
    elsewhere = fresh.settings.data_dir / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    assert fresh.call("DELETE", path_of(image), login="alice").status == 204
    assert (elsewhere / "disk.raw").exists()


def test_delete_succeeds_if_the_file_is_missing(fresh: Service) -> None:
    image = add_file(fresh)
    (fresh.settings.images / image.location).unlink()
    assert fresh.call("DELETE", path_of(image), login="alice").status == 204


def test_delete_all_removes_only_the_images_of_the_appliance(fresh: Service) -> None:
    image = add_file(fresh)
    assert fresh.call("DELETE", ALICE, login="alice").status == 204
    assert fresh.get(ALICE, login="alice").text("total") == "0"
    assert not (fresh.settings.images / image.location).exists()
    assert ids(fresh.get("users/alice/images", login="alice", accept=JSON).json) == [22]
    assert fresh.call("DELETE", ALICE, login="alice").status == 204
    assert fresh.call("DELETE", "users/alice/appliances/99/images", login="alice").status == 404


@pytest.mark.parametrize("which", DELETIONS)
def test_image_needed_by_a_publication_cannot_be_deleted(fresh: Service, which: str) -> None:
    ticket = fresh.publish(login="alice", image=21)
    refused = fresh.call("DELETE", DELETIONS[which], login="alice")
    assert refused.status == 409
    assert f"ticket {ticket.id}" in refused.problem()
    assert fresh.get(ALICE, login="alice").text("total") == "2"
    assert fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="alice").status == 204
    assert fresh.call("DELETE", DELETIONS[which], login="alice").status == 204
    # Its publication stays readable.
    left = fresh.get(ticket_path(ticket), login="alice", accept=JSON)
    assert left.status == 200
    assert "downloadUri" not in left.json
    refused = fresh.post(f"{ticket_path(ticket)}/retry", "", login="alice")
    assert refused.status == 409
    assert "was deleted" in refused.problem()


@pytest.mark.parametrize("which", DELETIONS)
@pytest.mark.parametrize("state", [ImageState.QUEUED, ImageState.FETCHING])
def test_image_being_registered_cannot_be_deleted(fresh: Service, which: str, state: ImageState) -> None:
    change(fresh, 21, state=state)
    refused = fresh.call("DELETE", DELETIONS[which], login="alice")
    assert refused.status == 409
    assert "cancel that first" in refused.problem()
    assert fresh.get(ALICE, login="alice").text("total") == "2"


def test_ticket_shows_nothing_of_a_later_image_with_the_same_id(fresh: Service) -> None:
    """The ticket's image is deleted, then another image gets the same id."""
    ticket = fresh.publish(login="alice", image=21)
    fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="alice")
    fresh.call("DELETE", image_uri(21), login="alice")
    file = fresh.settings.data_dir / "disk.raw"
    file.write_bytes(b"bob's")
    image_files.register(fresh.store, fresh.settings.images, file, owner="bob", appliance_id=24, id=21, format="raw")
    left = fresh.get(ticket_path(ticket), login="alice", accept=JSON).json
    assert not {"sha256sum", "downloadUri", "fileSize"} & set(left)
    assert fresh.get(f"{APPLIANCE}/pimages/{ticket.id}/downloads", login="alice").status == 404


def test_file_that_cannot_be_deleted_is_logged(
    fresh: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add_file(fresh)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert fresh.call("DELETE", path_of(image), login="alice").status == 204
    assert image.location in caplog.text
