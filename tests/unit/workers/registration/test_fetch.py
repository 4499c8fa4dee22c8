"""A worker registers an image from an HTTP server, from S3 or from the image root."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from publisher.core.image import Image, ImageState
from publisher.core.settings import Settings
from publisher.store import Store
from tests.records import OWNER
from tests.unit.workers.registration.origin import CONTENT, SECRET, Origin, answering, begin, files, now, start, whole
from workers.registration import Registrar


def untold(handler: BaseHTTPRequestHandler) -> None:
    """Send the whole file without its length."""
    start(handler, 200)
    handler.wfile.write(CONTENT)


def cut(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": str(len(CONTENT))})
    handler.wfile.write(CONTENT[:50_000])


def empty(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": "0"})


def run_to_the_end(registrar: Registrar, store: Store, id: int) -> Image:
    while registrar.run(id) is ImageState.QUEUED:
        pass
    return now(store, id)


@pytest.mark.parametrize("answer", [whole, untold])
def test_an_image_is_fetched_and_registered(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, answer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    origin.answers["/images/disk.qcow2"] = answer
    id = begin(sqlite_store, origin.url("/images/disk.qcow2"), "openstackqcow2")
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert (image.format, image.disk_format, image.virtual_size) == ("openstackqcow2", "qcow2", 5 << 30)
    assert (image.size, image.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert (image.sent, image.total, image.attempt) == (image.size, image.size, 1)
    assert image.file_name == "disk.qcow2"
    assert files(settings) == [image.location]
    assert registrar.run(id) is None, "there is nothing to do any more"
    assert SECRET not in caplog.text


def test_a_file_under_the_image_root_is_registered_in_place(
    registrar: Registrar, sqlite_store: Store, settings: Settings
) -> None:
    file = settings.images / "kept" / "disk.qcow2"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    id = begin(sqlite_store, "kept/disk.qcow2")
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert (image.location, image.sha256) == ("kept/disk.qcow2", hashlib.sha256(CONTENT).hexdigest())
    file.write_bytes(CONTENT + b"more")
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.READY
    assert now(sqlite_store, id).size == len(CONTENT) + 4
    file.unlink()
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.FAILED
    assert "no longer there" in str(now(sqlite_store, id).error)


@pytest.mark.parametrize(
    ("answer", "format", "words"),
    [
        (answering(404), None, "127.0.0.1 has no such file"),
        (answering(403), None, "127.0.0.1 answered 403"),
        (answering(302, Location="http://localhost/a"), None, "'localhost' is not among PUBLISHER_LOCATION_HOSTS"),
        (answering(302, Location="file:///etc/passwd"), None, "location: is neither"),
        (empty, None, "the file is empty"),
        (whole, "raw", "format: 'raw' means a raw file, but the file is qcow2"),
    ],
)
def test_a_permanent_error_fails_at_once(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, answer: Any, format: str | None,
    words: str,
) -> None:  # fmt: skip
    origin.answers["/disk"] = answer
    id = begin(sqlite_store, origin.url("/disk"), format)
    assert registrar.run(id) is ImageState.FAILED
    image = now(sqlite_store, id)
    assert words in str(image.error)
    assert SECRET not in str(image.error)
    assert (image.attempt, files(settings)) == (1, [])


def test_a_redirect_to_an_allowed_host_is_followed(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers |= {"/old": answering(302, Location="/new.qcow2"), "/new.qcow2": whole}
    id = begin(sqlite_store, origin.url("/old"))
    assert registrar.run(id) is ImageState.READY
    assert origin.asked == ["/old", "/new.qcow2"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answering(503), "127.0.0.1 answered 503"),
        (answering(429), "127.0.0.1 answered 429"),
        (cut, "the connection to 127.0.0.1 failed"),
    ],
)
def test_a_transient_error_is_tried_again(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, answer: Any, words: str
) -> None:
    origin.answers["/disk"] = answer
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    waiting = now(sqlite_store, id)
    assert words in str(waiting.error)
    assert waiting.message.startswith("Waiting to try again (attempt 2)")
    assert files(settings) == []
    origin.answers["/disk"] = whole
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert (image.error, image.attempt) == (None, 2)
    # If the error lasts, the registration fails after three attempts.
    origin.answers["/disk"] = answer
    sqlite_store.registrations.again(OWNER, 4, id)
    failed = run_to_the_end(registrar, sqlite_store, id)
    assert (failed.state, failed.attempt) == (ImageState.FAILED, 3)
    assert "given up after 3 attempts" in str(failed.error)
    assert files(settings) == []


def test_the_next_attempt_waits_as_long_as_the_server_asks(
    registrar: Registrar, sqlite_store: Store, origin: Origin
) -> None:
    origin.answers["/disk"] = answering(503, **{"Retry-After": "300"})
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert registrar.run(id) is None
    assert sqlite_store.registrations.due() == []


@pytest.mark.long
def test_a_fetch_that_stalls_is_tried_again(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers["/disk"] = origin.stall
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert "stalled" in str(now(sqlite_store, id).error)


def test_a_refused_connection_is_tried_again(registrar: Registrar, sqlite_store: Store) -> None:
    id = begin(sqlite_store, "http://127.0.0.1:1/disk")
    assert registrar.run(id) is ImageState.QUEUED
    assert "the connection to 127.0.0.1 failed" in str(now(sqlite_store, id).error)


@pytest.fixture
def s3(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the origin as an S3 server with its objects at /BUCKET/KEY."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{origin.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.long
@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("answer", "state", "size", "words"),
    [
        (whole, ImageState.READY, len(CONTENT), ""),
        (answering(404), ImageState.FAILED, 0, "bucket has no such file"),
        (answering(403), ImageState.FAILED, 0, "bucket refuses access to the file"),
        (answering(500), ImageState.QUEUED, 0, "bucket cannot be read at the moment"),
        (None, ImageState.QUEUED, 0, "the connection to the server of bucket failed"),
    ],
)
def test_answer_of_s3_decides_the_state_of_the_image(
    sqlite_store: Store, settings: Settings, registrar: Registrar, origin: Origin, monkeypatch: pytest.MonkeyPatch,
    answer: Any, state: ImageState, size: int, words: str,
) -> None:  # fmt: skip
    # If a key is missing, s3fs looks for keys below it.
    origin.answers |= {"/bucket/disk": answer, "/bucket": answering(404)}
    if answer is None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    allowed = replace(settings, location_hosts="s3://bucket", lease_seconds=60.0)
    id = begin(sqlite_store, "s3://bucket/disk")
    assert Registrar(sqlite_store, allowed, worker="w1").run(id) is state
    image = now(sqlite_store, id)
    assert words in str(image.error)
    assert image.size == size
