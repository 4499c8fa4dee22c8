"""Registering images, from a real HTTP server and from under the image root."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from publisher.core.checksums import checksum
from publisher.core.image import Image, ImageState
from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.engine import writing
from publisher.store.registrations import Registration, Registrations
from publisher.store.tables import images
from tests import disks
from tests.compressed import COMPRESS
from tests.patience import PATIENCE
from tests.records import OWNER, add_owner
from workers.registration import Registrar

CONTENT = disks.qcow2(5 << 30) + b"x" * 100_000
SECRET = "what-gives-access"


@dataclass
class Origin:
    """A server that images are fetched from. Each path is answered by a function of the request."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    going: threading.Event = field(default_factory=threading.Event)
    """Set once half of an image was sent by `stall`."""
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}?token={SECRET}"

    def stall(self, handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(len(CONTENT))})
        handler.wfile.write(CONTENT[:50_000])
        handler.wfile.flush()
        self.going.set()
        self.released.wait(20 * PATIENCE)


def start(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def whole(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": str(len(CONTENT))})
    handler.wfile.write(CONTENT)


def untold(handler: BaseHTTPRequestHandler) -> None:
    """All of it, without its length."""
    start(handler, 200)
    handler.wfile.write(CONTENT)


def cut(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": str(len(CONTENT))})
    handler.wfile.write(CONTENT[:50_000])


def empty(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": "0"})


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, status, **({"Content-Length": "0"} | headers))

    return answer


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            made.asked.append(path)
            made.answers[path](self)

        def do_HEAD(self) -> None:
            """As S3 is asked for a size: the answer's head, without its body."""
            self.wfile, wfile = io.BytesIO(), self.wfile
            self.do_GET()
            wfile.write(self.wfile.getvalue().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.wfile = wfile

        def log_message(self, *_: Any) -> None:
            """Not into the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, location_hosts="127.0.0.1", lease_seconds=3.0, progress_seconds=0.05, attempts_max=3,
        retry_first_seconds=0.0, retry_longest_seconds=0.0, stall_seconds=0.5, connect_timeout_seconds=2.0,
    )  # fmt: skip


@pytest.fixture
def registrar(sqlite_store: Store, settings: Settings) -> Registrar:
    add_owner(sqlite_store)
    settings.images.mkdir()
    return Registrar(sqlite_store, settings, worker="w1")


def begin(store: Store, source: str, format: str | None = None) -> int:
    return store.registrations.begin(
        owner=OWNER, appliance_id=4, name="web", wanted_format=format, source=source
    ).id  # fmt: skip


def now(store: Store, id: int) -> Image:
    found = store.images.get(id)
    assert found is not None
    return found


def files(settings: Settings) -> list[str]:
    return sorted(str(each.relative_to(settings.images)) for each in settings.images.rglob("*") if each.is_file())


def run_to_the_end(registrar: Registrar, store: Store, id: int) -> Image:
    while registrar.run(id) is ImageState.QUEUED:
        pass
    return now(store, id)


@pytest.mark.parametrize("answer", [whole, untold])
def test_fetched(
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


def test_under_the_image_root(registrar: Registrar, sqlite_store: Store, settings: Settings) -> None:
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
def test_what_another_attempt_would_not_mend(
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


def test_a_redirect_to_a_host_that_is_allowed(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers |= {"/old": answering(302, Location="/new.qcow2"), "/new.qcow2": whole}
    id = begin(sqlite_store, origin.url("/old"))
    assert registrar.run(id) is ImageState.READY
    assert origin.asked == ["/old", "/new.qcow2"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answering(503), "127.0.0.1 answered 503"),
        (answering(429), "127.0.0.1 answered 429"),
        (cut, "the connection to 127.0.0.1 failed"),
    ],
)
def test_what_another_attempt_may_mend(
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
    # Had it stayed so:
    origin.answers["/disk"] = answer
    sqlite_store.registrations.again(OWNER, 4, id)
    failed = run_to_the_end(registrar, sqlite_store, id)
    assert (failed.state, failed.attempt) == (ImageState.FAILED, 3)
    assert "given up after 3 attempts" in str(failed.error)
    assert files(settings) == []


def test_after_the_time_that_the_server_asks_for(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers["/disk"] = answering(503, **{"Retry-After": "300"})
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert registrar.run(id) is None
    assert sqlite_store.registrations.due() == []


def test_one_that_stalls_is_tried_again(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers["/disk"] = origin.stall
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert "stalled" in str(now(sqlite_store, id).error)


def test_nobody_is_there(registrar: Registrar, sqlite_store: Store) -> None:
    id = begin(sqlite_store, "http://127.0.0.1:1/disk")
    assert registrar.run(id) is ImageState.QUEUED
    assert "the connection to 127.0.0.1 failed" in str(now(sqlite_store, id).error)


@pytest.fixture
def s3(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin as an S3 server, whose objects are at /BUCKET/KEY."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{origin.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (whole, ImageState.READY, ""),
        (answering(404), ImageState.FAILED, "bucket has no such file"),
        (answering(403), ImageState.FAILED, "bucket refuses to give the file"),
        (answering(500), ImageState.QUEUED, "bucket cannot be read for now"),
        (None, ImageState.QUEUED, "the connection to the server of bucket failed"),
    ],
)
def test_from_s3(
    sqlite_store: Store, settings: Settings, registrar: Registrar, origin: Origin, monkeypatch: pytest.MonkeyPatch,
    answer: Any, state: ImageState, words: str,
) -> None:  # fmt: skip
    # Where there is no such key, s3fs looks whether there are some below it.
    origin.answers |= {"/bucket/disk": answer, "/bucket": answering(404)}
    if answer is None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    allowed = replace(settings, location_hosts="s3://bucket", lease_seconds=60.0)
    id = begin(sqlite_store, "s3://bucket/disk")
    assert Registrar(sqlite_store, allowed, worker="w1").run(id) is state
    image = now(sqlite_store, id)
    assert words in str(image.error)
    assert image.size == (len(CONTENT) if state is ImageState.READY else 0)


def trickle(origin: Origin) -> Callable[[BaseHTTPRequestHandler], None]:
    """Sends on and on, until it is let go."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(100 << 20)})
        try:
            while not origin.released.wait(0.005):
                handler.wfile.write(b"x" * 4096)
                origin.going.set()
        except OSError:
            pass  # hung up on, as is expected

    return answer


@pytest.mark.parametrize("how", ["cancelled", "shut down"])
def test_it_stops_at_once_though_the_server_sends_nothing(
    sqlite_store: Store, settings: Settings, origin: Origin, registrar: Registrar, how: str
) -> None:
    origin.answers["/disk"] = origin.stall
    stop = threading.Event()
    patient = replace(settings, stall_seconds=60.0)
    id = begin(sqlite_store, origin.url("/disk"))
    thread = threading.Thread(target=Registrar(sqlite_store, patient, worker="w2", shutting_down=stop).run, args=(id,))
    thread.start()
    assert origin.going.wait(10 * PATIENCE)
    if how == "cancelled":
        sqlite_store.registrations.cancel(OWNER, 4, id)
    else:
        stop.set()
    thread.join(10 * PATIENCE)
    assert not thread.is_alive()
    assert files(settings) == []
    assert now(sqlite_store, id).state is (ImageState.CANCELLED if how == "cancelled" else ImageState.QUEUED)


@pytest.mark.parametrize("how", ["cancelled", "taken over", "shut down"])
def test_it_stops_when_it_must(
    sqlite_store: Store, settings: Settings, origin: Origin, registrar: Registrar, how: str
) -> None:
    origin.answers["/disk"] = trickle(origin)
    stop = threading.Event()
    first = Registrar(sqlite_store, settings, worker="w2", shutting_down=stop)
    id = begin(sqlite_store, origin.url("/disk"))
    states: list[ImageState | None] = []
    thread = threading.Thread(target=lambda: states.append(first.run(id)))
    thread.start()
    assert origin.going.wait(10 * PATIENCE)
    deadline = time.monotonic() + 10
    while now(sqlite_store, id).sent == 0 and time.monotonic() < deadline:
        threading.Event().wait(0.01)  # the progress is written by a thread of its own
    if how == "cancelled":
        sqlite_store.registrations.cancel(OWNER, 4, id)
    elif how == "shut down":
        stop.set()
    else:
        with writing(sqlite_store.engine) as connection:
            connection.execute(update(images).where(images.c.id == id).values(lease_token=99))
    thread.join(10 * PATIENCE)
    assert not thread.is_alive()
    assert files(settings) == []
    expected = {"cancelled": ImageState.CANCELLED, "taken over": ImageState.FETCHING, "shut down": ImageState.QUEUED}
    image = now(sqlite_store, id)
    assert image.state is expected[how]
    if how == "shut down":
        assert states == [ImageState.QUEUED]
        assert image.attempt == 0, "that does not count"
    else:
        assert states == [None]


def test_what_an_earlier_attempt_left_is_removed(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    claim = sqlite_store.registrations.claim(id, "dead", 60.0)
    assert claim is not None
    left = settings.images / ".incoming" / f"{id}-{claim.token}"
    left.parent.mkdir()
    left.write_bytes(b"half")
    placed = "0123456789ab4def8123456789abcdef/disk"
    sqlite_store.registrations.renew(claim, 60.0, sent=5, total=9)
    sqlite_store.registrations.place(claim, placed)
    sqlite_store.registrations.give_up(claim)
    (settings.images / placed).parent.mkdir()
    (settings.images / placed).write_bytes(b"whole, but not told of")
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert files(settings) == [image.location]
    assert image.attempt == 2
    # Generated again, the file before goes.
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.READY
    assert files(settings) == [now(sqlite_store, id).location]


def test_who_was_paused_deletes_nothing_of_who_took_over(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    others = settings.images / ".incoming" / f"{id}-2"
    claim = sqlite_store.registrations.claim

    def paused(*arguments: Any) -> Any:
        """The lease runs out, and another worker is in the middle of fetching."""
        first = claim(id, "w1", -1.0)
        assert claim(id, "w2", 60.0)
        others.parent.mkdir()
        others.write_bytes(b"half")
        return first

    monkeypatch.setattr(sqlite_store.registrations, "claim", paused)
    assert registrar.run(id) is None
    assert files(settings) == [f".incoming/{id}-2"]


def test_given_up_where_each_worker_breaks_off(registrar: Registrar, sqlite_store: Store) -> None:
    id = begin(sqlite_store, "http://127.0.0.1:1/disk")
    for _ in range(3):
        assert sqlite_store.registrations.claim(id, "dead", -1.0)
    assert registrar.run(id) is ImageState.FAILED
    assert "given up: 3 workers" in str(now(sqlite_store, id).error)


def test_an_end_whose_answer_is_lost_keeps_the_file(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    ready = Registrations.ready

    def committed_but_not_answered(self: Registrations, claim: Registration, **values: Any) -> None:
        ready(self, claim, **values)
        raise OperationalError("COMMIT", None, Exception("the connection is lost"))

    monkeypatch.setattr(Registrations, "ready", committed_but_not_answered)
    assert registrar.run(id) is None
    image = now(sqlite_store, id)
    assert image.state is ImageState.READY
    assert files(settings) == [image.location]


def test_an_end_that_was_not_committed_is_made_again(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))

    def lost(self: Registrations, claim: Registration, **values: Any) -> None:
        raise OperationalError("COMMIT", None, Exception("the connection is lost"))

    with monkeypatch.context() as patched:
        patched.setattr(Registrations, "ready", lost)
        assert registrar.run(id) is None
    with writing(sqlite_store.engine) as connection:  # its lease runs out
        connection.execute(update(images).where(images.c.id == id).values(lease_until=1.0))
    assert registrar.run(id) is ImageState.READY
    assert files(settings) == [now(sqlite_store, id).location]


# Compressed, too large, encoded, compared ----------------------------------------------------------------------------


def sending(content: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **({"Content-Length": str(len(content))} | headers))
        with contextlib.suppress(OSError):  # who has seen enough hangs up
            handler.wfile.write(content)

    return answer


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_compressed_file_is_unpacked(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, kind: str, encoded: bool
) -> None:
    # As many servers send a .gz: as though the compression were theirs.
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


def loop(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 302, **{"Content-Length": "0", "Location": "/disk"})


def chain() -> Callable[[BaseHTTPRequestHandler], None]:
    numbers = itertools.count()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 302, **{"Content-Length": "0", "Location": f"/disk?{next(numbers)}"})

    return answer


def without_length(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200)
        with contextlib.suppress(OSError):
            handler.wfile.write(content)

    return answer


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
def test_what_will_not_get_better_fails_at_once(
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


def test_an_error_page_may_be_encoded(registrar: Registrar, sqlite_store: Store, origin: Origin) -> None:
    origin.answers["/disk"] = answering(503, **{"Content-Encoding": "br"})
    id = begin(sqlite_store, origin.url("/disk"))
    assert registrar.run(id) is ImageState.QUEUED
    assert "answered 503" in str(now(sqlite_store, id).error)


def test_there_must_be_room_for_all_of_it(
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
def test_a_checksum_is_compared(
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
