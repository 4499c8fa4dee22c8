"""Fetched content is unpacked, limited in size and compared with its checksums."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest

from publisher.core.image import ImageState, checksum
from publisher.core.settings import Settings
from publisher.store import Store
from tests.compressed import COMPRESS
from tests.records import OWNER
from tests.unit.workers.registration.origin import CONTENT, SECRET, Origin, answering, begin, files, now, start, whole
from workers.registration import Registrar


def sending(content: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **({"Content-Length": str(len(content))} | headers))
        with contextlib.suppress(OSError):  # the client hangs up when it has seen enough
            handler.wfile.write(content)

    return answer


def without_length(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200)
        with contextlib.suppress(OSError):
            handler.wfile.write(content)

    return answer


def loop(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 302, **{"Content-Length": "0", "Location": "/disk"})


def chain() -> Callable[[BaseHTTPRequestHandler], None]:
    numbers = itertools.count()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 302, **{"Content-Length": "0", "Location": f"/disk?{next(numbers)}"})

    return answer


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_compressed_file_is_unpacked(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, kind: str, encoded: bool
) -> None:
    # Many servers send a .gz file with a Content-Encoding, as if they had compressed it themselves.
    encoding = {"gz": "gzip", "zst": "zstd"}.get(kind, "identity") if encoded else "identity"
    packed = COMPRESS[kind](CONTENT)
    origin.answers["/web%20disk.qcow2." + kind] = sending(packed, **{"Content-Encoding": encoding})
    id = begin(sqlite_store, origin.url(f"/web%20disk.qcow2.{kind}"), "qcow2")
    assert registrar.run(id) is ImageState.READY, now(sqlite_store, id).error
    image = now(sqlite_store, id)
    assert (image.file_name, image.disk_format, image.virtual_size) == ("web disk.qcow2", "qcow2", 5 << 30)
    assert (image.size, image.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert files(settings) == [image.location]
    assert (settings.images / image.location).read_bytes() == CONTENT


def test_a_compressed_file_under_the_image_root_is_unpacked_beside_it(
    registrar: Registrar, sqlite_store: Store, settings: Settings
) -> None:
    packed = COMPRESS["zst"](CONTENT)
    (settings.images / "disk.qcow2.zst").write_bytes(packed)
    id = begin(sqlite_store, "disk.qcow2.zst")
    assert registrar.run(id) is ImageState.READY, now(sqlite_store, id).error
    image = now(sqlite_store, id)
    assert (image.file_name, image.sha256) == ("disk.qcow2", hashlib.sha256(CONTENT).hexdigest())
    assert files(settings) == sorted(["disk.qcow2.zst", image.location])
    assert (settings.images / "disk.qcow2.zst").read_bytes() == packed


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: sending(bytes(300_001)), "the image is larger than 300000 bytes (PUBLISHER_UPLOAD_BYTES_MAX)"),
        (lambda: without_length(bytes(10 << 20)), "the image is larger than 300000 bytes (PUBLISHER_UPLOAD_BYTES_MAX)"),
        (lambda: sending(COMPRESS["xz"](bytes(1 << 20))), "unpacked, the image is larger than 300000 bytes"),
        (
            lambda: sending(gzip.compress(bytes(1 << 20)), **{"Content-Encoding": "gzip"}),
            "unpacked, the image is larger than 300000 bytes",
        ),
        (lambda: sending(zlib.compress(CONTENT), **{"Content-Encoding": "deflate"}), "encoded as 'deflate'"),
        (lambda: sending(CONTENT, **{"Content-Encoding": "br"}), "encoded as 'br'"),
        (lambda: sending(COMPRESS["gz"](CONTENT)[:-9]), "the gz file is incomplete"),
        (lambda: loop, "127.0.0.1 redirects in a loop"),
        (chain, "127.0.0.1 redirects more than 10 times"),
    ],
    ids=["large", "large, untold", "large, xz", "large, encoded", "deflate", "br", "cut", "loop", "chain"],
)
def test_wrong_content_fails_at_once(
    sqlite_store: Store, settings: Settings, registrar: Registrar, origin: Origin, answer: Any, words: str
) -> None:
    origin.answers["/disk"] = answer()
    id = begin(sqlite_store, origin.url("/disk"))
    bounded = replace(settings, upload_bytes_max=300_000)
    assert Registrar(sqlite_store, bounded, worker="w1").run(id) is ImageState.FAILED
    image = now(sqlite_store, id)
    assert words in str(image.error)
    assert SECRET not in str(image.error)
    assert (image.attempt, files(settings)) == (1, [])


def test_503_with_an_encoded_page_is_tried_again(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers["/disk"] = answering(503, **{"Content-Encoding": "br"})
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert "answered 503" in str(now(sqlite_store, id).error)


def test_a_full_disk_is_noticed_before_the_first_byte(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = len(CONTENT) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    written: list[bytes] = []
    monkeypatch.setattr("publisher.files.image_writer.ImageWriter.write", lambda _, piece: written.append(piece))
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert "there is no space left for the image" in str(now(sqlite_store, id).error)
    assert (written, files(settings)) == ([], [])


@pytest.mark.parametrize("source", ["fetched", "kept"])
@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_wrong_checksum_is_refused_and_right_one_accepted(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, source: str, algorithm: str
) -> None:
    origin.answers["/disk.qcow2"] = whole
    (settings.images / "disk.qcow2").write_bytes(CONTENT)
    where = origin.url("/disk.qcow2") if source == "fetched" else "disk.qcow2"
    right = hashlib.new(algorithm, CONTENT, usedforsecurity=False).hexdigest()

    def begun(value: str) -> int:
        return sqlite_store.registrations.begin(
            owner=OWNER, appliance_id=4, name="web", wanted_format=None, source=where,
            expected=(checksum(algorithm, value, f"{algorithm}sum"),),
        ).id  # fmt: skip

    id = begun(right[::-1])
    assert registrar.run(id) is ImageState.FAILED
    failed = now(sqlite_store, id)
    assert f"{algorithm}sum: the image's {algorithm} is {right}, not {right[::-1]}" in str(failed.error)
    assert (failed.attempt, files(settings)) == (1, ["disk.qcow2"])
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.FAILED, "it is still compared"

    id = begun(right)
    assert registrar.run(id) is ImageState.READY
    origin.answers["/disk.qcow2"] = sending(CONTENT + b"another generation")
    (settings.images / "disk.qcow2").write_bytes(CONTENT + b"another generation")
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.READY, "that is another file"
