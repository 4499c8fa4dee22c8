"""Registering images by location or by upload, generating one again, and cancelling."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from publisher.core.image import ImageState
from publisher.store.database import images, writing
from publisher.store.images import Images
from tests import disks
from tests.compressed import COMPRESS
from tests.service import JSON, UFORGE, XML, Service

ALICE = "users/alice/appliances/14/images"
BYTES = "application/octet-stream"
BROUGHT = "0123456789ab4def8123456789abcdef"
"""A directory with a name like those that the service creates for images."""
QCOW2 = disks.qcow2(5 << 30)


def place(service: Service, name: str, content: bytes = QCOW2) -> Path:
    file = service.settings.images / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def files(service: Service) -> list[str]:
    root = service.settings.images
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_file())


def change(service: Service, id: int, **values: Any) -> None:
    with writing(service.store.engine) as connection:
        connection.execute(update(images).where(images.c.id == id).values(values))


def asked(**elements: Any) -> str:
    return json.dumps(elements)


def count(service: Service) -> int:
    return len(service.store.images.list())


# By location ------------------------------------------------------------------------------------------------------


def test_path_under_the_image_root_is_registered(fresh: Service) -> None:
    file = place(fresh, "generated/disk.qcow2")
    for number, location in enumerate(("generated/disk.qcow2", str(file))):
        answer = fresh.post(ALICE, asked(location=location, name="web"), content_type=JSON, login="alice", accept=JSON)
        assert answer.status == 201, answer.body
        made = answer.json
        assert answer.headers["location"].endswith(f"/api/{made['uri']}")
        assert (made["name"], made["imageCreated"], made["status"]["complete"]) == ("web", False, False)
        assert made["status"]["message"] == "Queued"
        assert "location" not in made
        assert "downloadUri" not in made
        assert fresh.waker.images[number:] == [made["dbId"]]
        found = fresh.store.images.get(made["dbId"])
        assert found is not None
        assert (found.source, found.state, found.location) == ("generated/disk.qcow2", ImageState.QUEUED, "")
        status = fresh.get(made["statusUri"], login="alice", accept=JSON).json
        assert (status["complete"], status["error"], status["cancelled"]) == (False, False, False)


def test_xml_request_may_name_a_format_and_a_new_appliance(fresh: Service) -> None:
    place(fresh, "disk.raw")
    body = (
        f'<n:image xmlns:n="{UFORGE}"><location>disk.raw</location><targetFormat><name>openstack</name>'
        "<format><name>OpenStackQcow2</name></format></targetFormat>"
        "<parentUri>users/alice/appliances/99</parentUri></n:image>"
    )
    answer = fresh.post("users/alice/appliances/99/images", body, content_type=XML, login="alice")
    assert answer.status == 201, answer.body
    assert answer.text("name") == "disk", "that of the file"
    assert answer.text("targetFormat/format/name") == "openstackqcow2"
    assert fresh.get("users/alice/appliances/99", login="alice").text("name") == "appliance-99"


@pytest.mark.parametrize(
    ("elements", "at_fault"),
    [
        ({}, "location: is needed"),
        ({"location": ""}, "location: is needed"),
        ({"location": "nowhere.raw"}, "location: there is no such file under the image root"),
        ({"location": "../publisher.db"}, "location: there is no such file under the image root"),
        ({"location": "link.raw"}, "location: there is no such file under the image root"),
        ({"location": "directory"}, "location: there is no such file under the image root"),
        ({"location": ".incoming/12-1"}, "location: there is no such file under the image root"),
        ({"location": f"./{BROUGHT}/disk.raw"}, "location: there is no such file under the image root"),
        ({"location": "/etc/passwd"}, "location: is outside the image root"),
        ({"location": "file:///etc/passwd"}, "location: is neither"),
        ({"location": "ftp://images.example.com/a"}, "location: is neither"),
        ({"location": "http://elsewhere.org/a.raw"}, "location: 'elsewhere.org' is not among"),
        ({"location": "http://example.com/a.raw"}, "location: 'example.com' is not among"),
        ({"location": "http://images.example.com.evil.org/a"}, "location: 'images.example.com.evil.org' is not"),
        ({"location": "s3://other/a"}, "location: 'other' is not among"),
        ({"location": "http://images.example.com"}, "location: names no file"),
        ({"location": "http://anna:secret@images.example.com/a"}, "location: must not hold a login"),
        ({"location": "http://[::1/a"}, "location: is not a valid URL"),
        ({"location": "http://images.example.com:99999/a"}, "location: is not a valid URL"),
        ({"location": "disk.raw", "name": "x" * 256}, "name: has 1 to 255"),
        ({"location": "disk.raw", "format": {"name": "floppy"}}, "format: 'floppy' is unknown"),
        ({"location": "disk.raw", "parentUri": "users/alice/appliances/15"}, "parentUri: "),
    ],
)
def test_invalid_registration_is_refused(start: Any, elements: dict[str, Any], at_fault: str) -> None:
    service: Service = start(location_hosts="*.example.com, s3://bucket")
    place(service, "disk.raw")
    place(service, "directory/disk.raw")
    # Files of other images: one is being fetched, one has been fetched.
    place(service, ".incoming/12-1")
    place(service, f"{BROUGHT}/disk.raw")
    (service.settings.images / "link.raw").symlink_to("/etc/passwd")
    before = count(service)
    answer = service.post(ALICE, asked(**elements), content_type=JSON, login="alice")
    assert answer.status == 400, answer.body
    assert answer.problem().startswith(at_fault)
    assert (count(service), service.waker.images) == (before, [])


@pytest.mark.parametrize(
    "location", ["http://images.example.com/a.raw?token=t", "https://a.b.example.com:8443/x/y.qcow2", "s3://bucket/key"]
)
def test_allowed_host_is_accepted(start: Any, location: str) -> None:
    service: Service = start(location_hosts="*.example.com, s3://bucket")
    answer = service.post(ALICE, asked(location=location), content_type=JSON, login="alice")
    assert answer.status == 201, answer.body
    assert b"token" not in answer.body, "what gives access is not told"


def test_registration_requires_ownership_and_entitlement(fresh: Service) -> None:
    place(fresh, "disk.raw")
    body = asked(location="disk.raw")
    for login, uid, status in (
        (None, "alice", 401), ("bob", "alice", 404), ("carol", "carol", 403), ("root", "alice", 201),
    ):  # fmt: skip
        path = f"users/{uid}/appliances/14/images"
        assert fresh.post(path, body, content_type=JSON, login=login).status == status
        assert fresh.post(path, QCOW2, content_type=BYTES, login=login).status == status


# By upload --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [XML, JSON])
def test_uploaded_image_is_registered_downloaded_and_deleted(fresh: Service, accept: str) -> None:
    answer = fresh.post(
        f"{ALICE}?name=web%20server&fileName=..%2Fw%C3%A9b.qcow2",
        QCOW2,
        content_type=BYTES,
        login="alice",
        accept=accept,
    )
    assert answer.status == 201, answer.body
    (image,) = [each for each in fresh.store.images.list(owner="alice") if each.name == "web server"]
    assert (image.format, image.size, image.virtual_size) == ("openstackqcow2", len(QCOW2), 5 << 30)
    assert image.sha256 == hashlib.sha256(QCOW2).hexdigest()
    assert image.location.endswith("/_wéb.qcow2")
    assert files(fresh) == [image.location]
    made = fresh.get(f"{ALICE}/{image.id}", login="alice", accept=JSON).json
    assert (made["status"]["complete"], made["status"]["percentage"]) == (True, 100)
    assert fresh.get(made["downloadUri"], login=None).body == QCOW2
    assert fresh.call("DELETE", made["uri"], login="alice").status == 204
    assert files(fresh) == []


@pytest.mark.parametrize(
    ("parameters", "content", "status", "words"),
    [
        ("", b"", 400, "body: is empty"),
        ("?format=raw", QCOW2, 400, "format: 'raw' means a raw file, but the file is qcow2"),
        ("?format=floppy", QCOW2, 400, "format: 'floppy' is unknown"),
        ("?name=" + "x" * 300, QCOW2, 400, "name: has 1 to 255"),
        ("", bytes(30001), 413, "the image is larger than 30000 bytes"),
    ],
)
def test_refused_upload_leaves_nothing(start: Any, parameters: str, content: bytes, status: int, words: str) -> None:
    service: Service = start(upload_bytes_max=30000)
    before = count(service)
    for accept in (XML, JSON):
        answer = service.post(ALICE + parameters, content, content_type=BYTES, login="alice", accept=accept)
        assert (answer.status, answer.problem().startswith(words)) == (status, True), answer.body
    assert (count(service), files(service)) == (before, [])


def test_full_disk_gets_503_and_leaves_nothing(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.services.image_files.IncomingImage.capacity", 10)
    before = count(fresh)
    answer = fresh.post(ALICE, QCOW2, content_type=BYTES, login="alice")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "no room" in answer.problem()
    assert (count(fresh), files(fresh)) == (before, [])


@pytest.mark.parametrize(("committed", "kept"), [(True, 1), (False, 0)])
def test_file_is_kept_only_if_the_lost_commit_succeeded(
    fresh: Service, monkeypatch: pytest.MonkeyPatch, committed: bool, kept: int
) -> None:
    add, before = Images.add, count(fresh)

    def lost(self: Images, **values: Any) -> None:
        if committed:
            add(self, **values)
        raise OperationalError("COMMIT", None, Exception("the connection is lost"))

    monkeypatch.setattr(Images, "add", lost)
    answer = fresh.post(ALICE, QCOW2, content_type=BYTES, login="alice")
    assert answer.status == 503, answer.body
    assert (count(fresh) - before, len(files(fresh))) == (kept, kept)


# Compressed, with checksums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_upload_is_unpacked(fresh: Service, kind: str) -> None:
    packed = COMPRESS[kind](QCOW2)
    answer = fresh.post(
        f"{ALICE}?fileName=web.qcow2.{kind}&format=qcow2", packed, content_type=BYTES, login="alice", accept=JSON
    )
    assert answer.status == 201, answer.body
    image = fresh.store.images.get(answer.json["dbId"])
    assert image is not None
    assert (image.name, image.file_name, image.format) == ("web", "web.qcow2", "openstackqcow2")
    assert (image.size, image.virtual_size) == (len(QCOW2), 5 << 30)
    assert image.sha256 == answer.json["sha256sum"] == hashlib.sha256(QCOW2).hexdigest()
    assert files(fresh) == [image.location]
    assert fresh.get(answer.json["downloadUri"], login=None).body == QCOW2


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda packed: packed[:-5], 400, "file is incomplete"),
        (lambda packed: packed + b"more of it", 400, "file is followed by other data"),
        (COMPRESS["gz"], 400, "is compressed twice"),
        (
            lambda packed: packed * 2,  # concatenated, they unpack to one file
            413,
            f"unpacked, the image is larger than {len(QCOW2)} bytes",
        ),
    ],
    ids=["cut", "followed", "twice", "large"],
)
def test_invalid_compressed_upload_is_refused(start: Any, kind: str, change: Any, status: int, words: str) -> None:
    service: Service = start(upload_bytes_max=len(QCOW2))
    before = count(service)
    answer = service.post(ALICE, change(COMPRESS[kind](QCOW2)), content_type=BYTES, login="alice")
    assert (answer.status, words in answer.problem()) == (status, True), answer.body
    assert (count(service), files(service)) == (before, [])


def base64_of(algorithm: str, content: bytes) -> str:
    return base64.b64encode(hashlib.new(algorithm, content, usedforsecurity=False).digest()).decode()


def test_correct_checksums_are_accepted(fresh: Service) -> None:
    sha256, md5 = hashlib.sha256(QCOW2).hexdigest(), hashlib.md5(QCOW2, usedforsecurity=False).hexdigest()
    headers = {
        "Content-MD5": base64_of("md5", QCOW2),
        "Digest": f"unixsum=30637,SHA-256={base64_of('sha256', QCOW2)}, md5={base64_of('md5', QCOW2)}",
        "Content-Digest": f"sha-256=:{base64_of('sha256', QCOW2)}:",
        "Repr-Digest": f"sha-512=:{base64_of('sha512', QCOW2)}:, x=:AAAA:",
    }
    path = f"{ALICE}?sha256sum={sha256.upper()}&md5sum={md5}"
    answer = fresh.post(path, QCOW2, content_type=BYTES, login="alice", headers=headers)
    assert answer.status == 201, answer.body


@pytest.mark.parametrize("sent", [QCOW2, COMPRESS["xz"](QCOW2)], ids=["plain", "xz"])
@pytest.mark.parametrize(
    ("parameters", "headers", "at_fault"),
    [
        (f"?md5sum={'0' * 32}", {}, "md5sum: the image's md5 is "),
        (f"?sha256sum={'0' * 64}", {}, "sha256sum: the image's sha256 is "),
        ("", {"Content-MD5": base64_of("md5", b"other")}, "Content-MD5: the image's md5 is "),
        ("", {"Digest": f"sha-256={base64_of('sha256', b'other')}"}, "Digest: the image's sha256 is "),
        ("", {"Digest": f"MD5={base64_of('md5', b'other')}"}, "Digest: the image's md5 is "),
        ("", {"Content-Digest": f"sha-512=:{base64_of('sha512', b'')}:"}, "Content-Digest: the image's sha512 is "),
        ("", {"Repr-Digest": f"sha-256=:{base64_of('sha256', b'')}:"}, "Repr-Digest: the image's sha256 is "),
        ("?md5sum=x", {}, "md5sum: is no md5 checksum"),
        ("?sha256sum=" + "g" * 64, {}, "sha256sum: is no sha256 checksum"),
        ("", {"Content-MD5": "d41d8cd98f00b204e9800998ecf8427e"}, "Content-MD5: is no md5 checksum"),
        ("", {"Content-MD5": "?"}, "Content-MD5: is no md5 checksum"),
        ("", {"Digest": "sha-256"}, "Digest: is malformed"),
        ("", {"Digest": "crc32c=AAAA"}, "Digest: has no supported algorithm"),
        ("", {"Repr-Digest": f"sha-256={base64_of('sha256', QCOW2)}"}, "Repr-Digest: is malformed"),
        ("", {"Content-Digest": "sha-256=:AAAA:"}, "Content-Digest: is no sha256 checksum"),
    ],
)
def test_wrong_or_malformed_checksum_is_refused(
    fresh: Service, sent: bytes, parameters: str, headers: dict[str, str], at_fault: str
) -> None:
    before = count(fresh)
    answer = fresh.post(ALICE + parameters, sent, content_type=BYTES, login="alice", headers=headers)
    assert (answer.status, answer.problem()[: len(at_fault)]) == (400, at_fault), answer.body
    assert (count(fresh), files(fresh)) == (before, [])


@pytest.mark.parametrize("form", [JSON, XML])
def test_expected_checksums_of_a_location_are_stored(fresh: Service, form: str) -> None:
    place(fresh, "disk.raw")
    md5, sha256 = "AB" * 16, "cd" * 32
    body = (
        asked(location="disk.raw", md5sum=md5, sha256sum=sha256)
        if form == JSON
        else f'<n:image xmlns:n="{UFORGE}"><md5sum>{md5}</md5sum><sha256sum>{sha256}</sha256sum>'
        "<location>disk.raw</location></n:image>"
    )
    answer = fresh.post(ALICE, body, content_type=form, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    found = fresh.store.images.get(answer.json["dbId"])
    assert found is not None
    assert [(each.algorithm, each.value, each.field) for each in found.expected] == [
        ("md5", md5.lower(), "md5sum"),
        ("sha256", sha256, "sha256sum"),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a%0Ab", "name: has a line break (U+000A) at position 1"),
        ("%20%20", "name: consists of blanks only"),
        ("%FF", "name: is not UTF-8"),
        ("a%00b", "name: has a character that cannot be shown (U+0000)"),
    ],
)
@pytest.mark.parametrize("parameter", ["name", "fileName"])
def test_invalid_name_of_an_upload_is_refused(fresh: Service, name: str, words: str, parameter: str) -> None:
    before = count(fresh)
    answer = fresh.post(f"{ALICE}?{parameter}={name}", QCOW2, content_type=BYTES, login="alice")
    words = words.replace("name", parameter, 1)
    assert (answer.status, answer.problem()[: len(words)]) == (400, words), answer.body
    assert (count(fresh), files(fresh)) == (before, [])


def test_default_name_is_percent_decoded_only_from_http_urls(start: Any) -> None:
    service: Service = start(location_hosts="images.example.com, s3://bucket")
    for location, name in (
        ("https://images.example.com/a/file%20n%C3%A5me.qcow2.xz?x=y%20z", "file nåme"),
        ("https://images.example.com/a/..%2F..%2Fetc%00passwd.img", "_.._etc_passwd"),
        ("https://images.example.com/a/%FF.qcow2", "_"),
        ("s3://bucket/file%20name.qcow2", "file%20name"),
    ):
        answer = service.post(ALICE, asked(location=location), content_type=JSON, login="alice", accept=JSON)
        assert (answer.status, answer.json["name"]) == (201, name)


# Generating again, and cancelling ---------------------------------------------------------------------------------


def begun(service: Service) -> int:
    place(service, "disk.raw")
    made = service.post(ALICE, asked(location="disk.raw"), content_type=JSON, login="alice", accept=JSON).json
    return int(made["dbId"])


def test_failed_image_can_be_generated_again(fresh: Service) -> None:
    id = begun(fresh)
    path = f"{ALICE}/{id}"
    going_on = fresh.post(path, "", login="alice")
    assert (going_on.status, "is being registered" in going_on.problem()) == (409, True)
    change(fresh, id, state="failed", error="it broke", sent=5, attempt=3)
    again = fresh.post(path, "", login="alice", accept=JSON)
    assert again.status == 201
    assert (again.json["revision"], again.json["status"]["message"]) == (2, "Queued")
    assert again.json["status"]["bytesLoaded"] == 0
    assert fresh.waker.images == [id, id]
    added = fresh.post(f"{ALICE}/21", "", login="alice")
    assert (added.status, "was not fetched" in added.problem()) == (409, True)
    for other in (f"{ALICE}/999", path.replace("/14/", "/15/"), path.replace("alice", "bob")):
        assert fresh.post(other, "", login="alice").status == 404


def test_image_needed_by_a_ticket_cannot_be_generated_again(fresh: Service) -> None:
    change(fresh, 21, source="disk.raw")
    body = json.dumps({"imageUri": f"{ALICE}/21", "credAccount": {"targetPlatform": {"name": "memory"}, "login": "x"}})
    ticket = fresh.post("users/alice/appliances/14/pimages", body, content_type=JSON, login="alice", accept=JSON)
    assert ticket.status == 201, ticket.body
    assert fresh.post(f"{ALICE}/21", "", login="alice").status == 409
    assert fresh.call("DELETE", f"{ticket.json['uri']}/cancel", login="alice").status == 204
    assert fresh.post(f"{ALICE}/21", "", login="alice").status == 201
    refused = fresh.post("users/alice/appliances/14/pimages", body, content_type=JSON, login="alice")
    assert (refused.status, "is not ready" in refused.problem()) == (409, True)


def test_registration_can_be_cancelled_once(fresh: Service) -> None:
    id = begun(fresh)
    path = f"{ALICE}/{id}/status"
    for login, status in ((None, 401), ("bob", 404), ("alice", 204), ("alice", 409)):
        assert fresh.call("DELETE", path, login=login).status == status
    found = fresh.get(path, login="alice", accept=JSON).json
    assert (found["cancelled"], found["complete"], found["error"]) == (True, False, False)
    assert fresh.call("DELETE", f"{ALICE}/21/status", login="alice").status == 409
    assert fresh.call("DELETE", f"{ALICE}/999/status", login="alice").status == 404
