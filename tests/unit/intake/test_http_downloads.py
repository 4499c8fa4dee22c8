"""Image downloads by login or one-time key, whole or in part. Only the registered bytes are ever sent."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from publisher.core.image import Image
from publisher.core.ticket import Ticket
from publisher.services import image_files
from publisher.store.database import images, writing
from publisher.web.auth import NoSignatures, signature
from publisher.web.image_bodies import disposition
from tests.service import JSON, Answer, Service, ticket_path, xml_body

pytestmark = pytest.mark.long

CONTENT = bytes(range(256)) * 4000
"""Larger than one chunk."""
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
SIZE = len(CONTENT)


@pytest.fixture
def image(fresh: Service) -> Image:
    return add(fresh)


def add(service: Service, name: str = "disk.raw", owner: str = "alice", appliance_id: int = 14) -> Image:
    file = service.settings.data_dir / name
    file.write_bytes(CONTENT)
    return image_files.register(
        service.store, service.settings.images, file, owner=owner, appliance_id=appliance_id, format="raw"
    )


def path_of(image: Image) -> str:
    return f"users/{image.owner}/appliances/{image.appliance_id}/images/{image.id}"


def file_of(service: Service, image: Image) -> Path:
    return service.settings.images / image.location


def publish(service: Service, image: Image) -> Ticket:
    answer = service.post(f"{path_of(image)}/pimages", xml_body(image=None), login=image.owner, accept=JSON)
    assert answer.status == 201, answer.body
    return service.ticket(answer.json["dbId"])


def shown(service: Service, path: str, login: str = "alice") -> Any:
    return service.get(path, login=login, accept=JSON).json


def downloads(service: Service, image: Image) -> int:
    found = service.store.images.get(image.id)
    assert found is not None
    return found.downloads


def is_whole(answer: Answer) -> bool:
    return answer.status == 200 and answer.body == CONTENT


# With a login -----------------------------------------------------------------------------------------------------


def test_image_is_downloaded_whole_with_its_headers(fresh: Service, image: Image) -> None:
    for path in (f"{path_of(image)}/downloads", f"{path_of(image)}/downloads/disk.raw"):
        answer = fresh.get(path, login="alice", accept="application/octet-stream")
        assert is_whole(answer)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-length"] == str(SIZE)
        assert answer.headers["etag"] == ETAG
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["last-modified"]
        assert answer.headers["content-disposition"] == "attachment; filename=\"disk.raw\"; filename*=UTF-8''disk.raw"
        head = fresh.call("HEAD", path, login="alice")
        assert (head.status, head.body) == (200, b"")
        # Last-Modified is the time of the request if the image has just been registered.
        differing = {"x-request-id", "last-modified"}
        assert head.headers["last-modified"]
        same = [
            {name: value for name, value in each.headers.items() if name not in differing} for each in (head, answer)
        ]
        assert same[0] == same[1]
    assert downloads(fresh, image) == 0


def test_file_of_a_published_image_is_downloaded(fresh: Service, image: Image) -> None:
    ticket = publish(fresh, image)
    path = f"users/alice/appliances/14/pimages/{ticket.id}/downloads"
    assert is_whole(fresh.get(path, login="alice"))
    assert is_whole(fresh.get(path, login="root"))
    for wrong in (path.replace("/14/", "/15/"), path.replace("alice", "bob"), path.replace(f"/{ticket.id}/", "/99/")):
        assert fresh.get(wrong, login="root").status == 404
    assert fresh.get(path, login="bob").status == 404
    assert fresh.get(path, login="alice", password="wrong").status == 401


def test_unchanged_file_gets_304(fresh: Service, image: Image) -> None:
    path = f"{path_of(image)}/downloads"
    for method in ("GET", "HEAD"):
        answer = fresh.call(method, path, login="alice", headers={"If-None-Match": ETAG})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", ETAG)
    later = {"If-Modified-Since": formatdate((image.registered or 0) + 2, usegmt=True)}
    assert fresh.get(path, login="alice", headers=later).status == 304
    assert is_whole(fresh.get(path, login="alice", headers={"If-None-Match": '"another"'}))


@pytest.mark.parametrize(
    "path",
    [
        "users/alice/appliances/14/images/{id}/downloads/other.raw",
        "users/alice/appliances/14/images/{id}/downloads/DISK.RAW",
        "users/alice/appliances/14/images/{id}/downloads/",
        "users/alice/appliances/14/images/{id}/downloads/..%2Fdisk.raw",
        "users/alice/appliances/14/images/{id}/downloads/a/disk.raw",
        "users/alice/appliances/15/images/{id}/downloads",
        "users/alice/appliances/14/images/999/downloads",
        "users/bob/appliances/14/images/{id}/downloads",
        "users/bob/appliances/24/images/31/downloads",
    ],
)
def test_unknown_file_is_not_found(fresh: Service, image: Image, path: str) -> None:
    refused = fresh.get(path.format(id=image.id), login="alice")
    assert refused.status == 404
    assert refused.problem()


def test_other_methods_get_405(fresh: Service, image: Image) -> None:
    refused = fresh.call("DELETE", f"{path_of(image)}/downloads", login="alice")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


# Ranges -----------------------------------------------------------------------------------------------------------

RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=0-99": (0, 100),
    "bytes=100-299999": (100, 300_000),
    "bytes=1000-": (1000, SIZE),
    "bytes=0-": (0, SIZE),
    "bytes=-7": (SIZE - 7, SIZE),
    "bytes=-99999999": (0, SIZE),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE),
    f"bytes={SIZE - 1}-{SIZE + 100}": (SIZE - 1, SIZE),
    "Bytes = 5-6": (5, 7),
}
BEYOND = [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 1}", "bytes=9999999999999999999-", "bytes=-0"]
IGNORED = ["bytes=5-4", "bytes=-", "bytes=", "lines=1-2", "bytes=a-b", "0-5", "bytes=0-1,5-6", ""]


@pytest.mark.parametrize("wanted", RANGES)
def test_range_is_sent_with_206(fresh: Service, image: Image, wanted: str) -> None:
    start, end = RANGES[wanted]
    answer = fresh.get(f"{path_of(image)}/downloads", login="alice", headers={"Range": wanted})
    assert answer.status == 206
    assert answer.body == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize("wanted", BEYOND)
def test_range_beyond_the_end_gets_416(fresh: Service, image: Image, wanted: str) -> None:
    answer = fresh.get(f"{path_of(image)}/downloads", login="alice", headers={"Range": wanted})
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert str(SIZE) in answer.problem()


@pytest.mark.parametrize("wanted", IGNORED)
def test_invalid_or_multiple_ranges_are_ignored(fresh: Service, image: Image, wanted: str) -> None:
    assert is_whole(fresh.get(f"{path_of(image)}/downloads", login="alice", headers={"Range": wanted}))


@pytest.mark.parametrize(
    ("condition", "status", "length"), [(ETAG, 206, 10), ('"another"', 200, SIZE), (f"W/{ETAG}", 200, SIZE)]
)
def test_range_is_sent_only_if_if_range_matches(
    fresh: Service, image: Image, condition: str, status: int, length: int
) -> None:
    headers = {"Range": "bytes=10-19", "If-Range": condition}
    answer = fresh.get(f"{path_of(image)}/downloads", login="alice", headers=headers)
    assert (answer.status, len(answer.body)) == (status, length)


# By a one-time key ------------------------------------------------------------------------------------------------


def test_download_key_works_once(fresh: Service, image: Image) -> None:
    uri = shown(fresh, path_of(image))["downloadUri"]
    head = fresh.call("HEAD", uri, login=None)
    assert (head.status, head.headers["content-length"]) == (200, str(SIZE))
    assert fresh.get(uri, login=None, headers={"If-None-Match": ETAG}).status == 304
    assert fresh.get(uri, login=None, headers={"Range": f"bytes={SIZE}-"}).status == 416
    assert fresh.get(uri.replace("disk.raw", "other.raw"), login=None).status == 404
    assert is_whole(fresh.get(uri, login="alice"))
    assert is_whole(fresh.get(uri, login="root"))
    assert downloads(fresh, image) == 0

    assert is_whole(fresh.get(uri, login=None))

    for method in ("GET", "HEAD"):
        refused = fresh.call(method, uri, login=None)
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
    another = shown(fresh, path_of(image))["downloadUri"]
    assert another != uri
    assert is_whole(fresh.get(another, login=None))
    assert downloads(fresh, image) == 2


def test_list_shows_the_download_key(fresh: Service, image: Image) -> None:
    listed = shown(fresh, "users/alice/images")["images"]["image"]
    uri = next(each["downloadUri"] for each in listed if each["dbId"] == image.id)
    assert uri == shown(fresh, path_of(image))["downloadUri"]
    etag = fresh.get("users/alice/images", login="alice").headers["etag"]
    assert is_whole(fresh.get(uri, login=None))
    assert fresh.get("users/alice/images", login="alice", headers={"If-None-Match": etag}).status == 200


@pytest.mark.parametrize("name", ["downloadId", "id"])
def test_download_key_of_a_published_image_works_once(fresh: Service, image: Image, name: str) -> None:
    ticket = publish(fresh, image)
    found = shown(fresh, ticket_path(ticket))
    path = f"users/alice/appliances/14/pimages/{ticket.id}/downloads"
    assert found["downloadUri"] == f"{path}?downloadId={found['downloadKey']}"
    uri = f"{path}?{name}={found['downloadKey']}"
    assert fresh.call("HEAD", uri, login=None).status == 200
    assert is_whole(fresh.get(uri, login=None))
    assert fresh.get(uri, login=None).status == 401
    assert shown(fresh, ticket_path(ticket))["downloadKey"] != found["downloadKey"]
    (listed,) = shown(fresh, "users/alice/pimages")["publishImages"]["publishImage"]
    assert listed["downloadKey"] == shown(fresh, ticket_path(ticket))["downloadKey"]


def test_keys_of_an_image_and_its_tickets_are_independent(fresh: Service, image: Image) -> None:
    tickets = [publish(fresh, image) for _ in range(2)]
    uris = [shown(fresh, path)["downloadUri"] for path in (path_of(image), *map(ticket_path, tickets))]
    for uri in uris:
        assert is_whole(fresh.get(uri, login=None))
    for uri in uris:
        assert fresh.get(uri, login=None).status == 401


def test_wrong_download_key_gets_401(fresh: Service, image: Image) -> None:
    ticket = publish(fresh, image)
    key, other = (shown(fresh, path_of(each))["downloadKey"] for each in (image, add(fresh)))
    ticket_key = shown(fresh, ticket_path(ticket))["downloadKey"]
    path = f"{path_of(image)}/downloads"
    pimage = f"users/alice/appliances/14/pimages/{ticket.id}/downloads"
    assert len({key, other, ticket_key}) == 3
    for uri in (
        path,
        pimage,
        *(
            f"{path}?downloadId={each}"
            for each in ("", other, ticket_key, key[:-1], key + "A", key.swapcase(), "%C3%A9")
        ),
        *(f"{pimage}?id={each}" for each in ("", key, other, "%00")),
        f"{path}?id={key}",
        f"{path.replace('/14/', '/15/')}?downloadId={key}",
        f"{path.replace('alice', 'bob')}?downloadId={key}",
        f"users/alice/appliances/14/images/999/downloads?downloadId={key}",
        f"users/alice/appliances/14/pimages/999/downloads?id={ticket_key}",
        f"{pimage.replace('/14/', '/15/')}?id={ticket_key}",
    ):
        refused = fresh.get(uri, login=None)
        assert refused.status == 401, uri
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        assert refused.problem()
    # If a request has a login or a signature, only that counts.
    assert fresh.get(f"{path}?downloadId={key}", login="alice", password="wrong").status == 401
    assert fresh.get(f"{path}?downloadId={key}", login="bob").status == 404
    assert fresh.get(f"{path}?downloadId={key}&apiKey=x&signature=y", login=None).status == 401
    assert downloads(fresh, image) == 0
    assert is_whole(fresh.get(f"{path}?downloadId={key}", login=None))


def test_concurrent_downloads_use_a_key_once(fresh: Service, image: Image) -> None:
    uri = shown(fresh, path_of(image))["downloadUri"]
    barrier = threading.Barrier(8)
    statuses: list[int] = []

    def download() -> None:
        barrier.wait()
        statuses.append(fresh.get(uri, login=None).status)

    threads = [threading.Thread(target=download) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [401] * 7


@pytest.mark.parametrize(
    ("logged", "kept"),
    [
        ("/api/x/downloads/disk.raw?downloadId=KEY", "/api/x/downloads/disk.raw?downloadId=..."),
        ("/api/x/downloads?id=KEY&img=7", "/api/x/downloads?id=...&img=7"),
        ("/api/x?a=b&DownloadID=KEY&signature=KEY", "/api/x?a=b&DownloadID=...&signature=..."),
        ("/api/x?grid=7", "/api/x?grid=7"),
    ],
)
def test_download_key_is_masked_in_the_log(logged: str, kept: str) -> None:
    record = logging.LogRecord("uvicorn.access", 20, "", 0, "%s %s", ("GET", logged), None)
    assert NoSignatures().filter(record)
    assert record.getMessage() == f"GET {kept}"


# Changed files ----------------------------------------------------------------------------------------------------


def _cut(file: Path) -> None:
    file.write_bytes(CONTENT[:-1])


def _grow(file: Path) -> None:
    file.write_bytes(CONTENT + b"x")


def _swap(file: Path) -> None:
    """Replace the content by another of the same size, with a later time."""
    file.write_bytes(CONTENT[::-1])
    os.utime(file, (4e9, 4e9))


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _link_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to("elsewhere")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


CHANGES: list[Callable[[Path], None]] = [Path.unlink, _cut, _grow, _swap, _link, _link_directory, _pipe]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_gets_409(
    fresh: Service, image: Image, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    uri = shown(fresh, path_of(image))["downloadUri"]
    change(file_of(fresh, image))
    for login in ("alice", None):
        for _ in range(2):
            refused = fresh.get(uri, login=login)
            assert refused.status == 409
            assert "generate the image again" in refused.problem()
    assert downloads(fresh, image) == 0


def test_restored_file_is_downloaded_and_hashed_once(
    fresh: Service, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_of(fresh, image).write_bytes(CONTENT)
    os.utime(file_of(fresh, image), (4e9, 4e9))
    path = f"{path_of(image)}/downloads"
    assert is_whole(fresh.get(path, login="alice"))
    # The file was hashed once and is not hashed again.
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert is_whole(fresh.get(path, login="alice"))


def test_restored_file_that_is_changed_again_gets_409(fresh: Service, image: Image) -> None:
    file = file_of(fresh, image)
    os.utime(file, (4e9, 4e9))
    assert is_whole(fresh.get(f"{path_of(image)}/downloads", login="alice"))
    # The size and the modification time are the same as before.
    with file.open("r+b") as opened:
        opened.write(bytes(10))
    os.utime(file, (4e9, 4e9))
    assert fresh.get(f"{path_of(image)}/downloads", login="alice").status == 409


def test_open_file_stays_readable_while_its_image_is_deleted(fresh: Service, image: Image) -> None:
    opened = image_files.open_image(fresh.settings.images, image)
    with opened:
        assert fresh.call("DELETE", path_of(image), login="alice").status == 204
        assert not file_of(fresh, image).exists()
        assert opened.read() == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        'a "quoted" name.raw',
        "Årgång.raw",
        "a;b=c, d.raw",
        "100%.raw",
        "a\r\nSet-Cookie: x=y.raw",
        "日本.raw",
        "a?b#c&d.raw",
    ],
)
def test_unusual_file_name_is_quoted_in_content_disposition(fresh: Service, name: str) -> None:
    image = add(fresh)
    # Put the name into the catalog directly. A download must be safe however it got there.
    location = str(PurePosixPath(image.location).with_name(name))
    file_of(fresh, image).rename(fresh.settings.images / location)
    with writing(fresh.store.engine) as connection:
        connection.execute(update(images).where(images.c.id == image.id).values(location=location))
    answer = fresh.get(shown(fresh, path_of(image))["downloadUri"], login=None)
    assert is_whole(answer)
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-disposition"] == disposition(name)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("disk 1.raw", "filename=\"disk 1.raw\"; filename*=UTF-8''disk%201.raw"),
        ('a"b\\c.raw', "filename=\"a_b_c.raw\"; filename*=UTF-8''a%22b%5Cc.raw"),
        ("Å\r\n'.raw", "filename=\"____.raw\"; filename*=UTF-8''%C3%85%0D%0A%27.raw"),
    ],
)
def test_content_disposition_has_plain_and_encoded_name(name: str, header: str) -> None:
    assert disposition(name) == f"attachment; {header}"


def test_signed_request_downloads_the_image(fresh: Service, image: Image) -> None:
    made = fresh.post(
        "users/alice/apikeys", '{"name": "downloads"}', content_type=JSON, login="alice", accept=JSON
    ).json
    target = f"{path_of(image)}/downloads?apiKey={made['publicKey']}"
    signed = f"{target}&signature={quote(signature(made['secretKey'], target.encode()), safe='')}"
    assert is_whole(fresh.get(signed, login=None))
    assert fresh.get(signed + "x", login=None).status == 401
