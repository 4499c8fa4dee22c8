"""A hostile cloud cannot hold up a worker with wrong, endless or slow answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from publisher.core.errors import CloudError, PermanentCloudError, Stopped, TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, State, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import EVERYWHERE
from publisher.store import Store
from tests.keystone_v2 import KeystoneV2Stub
from tests.patience import PATIENCE
from tests.records import add_image, add_ticket, current
from tests.servers.answering import serving
from tests.servers.uploads import Upload, upload_server
from tests.stack import until
from workers.clouds.base import Tags, Timeouts
from workers.clouds.openstack import images
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.http_clients import ANSWER_BYTES_MAX
from workers.runner import Runner
from workers.transfer import Transfer

pytestmark = pytest.mark.long

PASSWORD = "hunter2-of-the-cloud"
TARGET = Target("openstack", {"tenantName": "t", "displayName": "x"})
SCHEMA = {"name": "image", "properties": {"id": {"type": "string", "pattern": "^(([a-z0-9-])+)+$"}}}


@dataclass
class HostileGlance:
    """A Glance that answers each request with `page`, and a request for a schema with one that never ends to match."""

    page: Callable[[BaseHTTPRequestHandler], None]
    paths: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.paths.append(handler.path)
        if handler.path.startswith("/v2/schemas/"):
            send(handler, SCHEMA)
        else:
            self.page(handler)


def send(handler: BaseHTTPRequestHandler, told: Any) -> None:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json; charset=punycode")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Answer with an empty page that links to another one, without end."""
    marker = int(parse_qs(urlsplit(handler.path).query).get("marker", ["0"])[0])
    send(handler, {"images": [], "next": f"/v2/images?marker={marker + 1}"})


def slowly_endless(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.2)
    endless(handler)


@contextmanager
def account_at(glance_url: str) -> Iterator[Account]:
    with KeystoneV2Stub("http://127.0.0.2:9", users={"joe": PASSWORD}, tenants={"t"}) as keystone:
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0", "glanceUrl": glance_url}
        yield Account("openstack", fields, {"password": PASSWORD})


@contextmanager
def cloud_at(glance_url: str, call_seconds: float = 10.0) -> Iterator[OpenStackPublisher]:
    with account_at(glance_url) as account:
        cloud = OpenStackPublisher.connect(account, TARGET, Timeouts(5, call_seconds, 10), EVERYWHERE)
        yield cloud
        cloud.close()


def refused(glance: HostileGlance, words: str) -> None:
    with serving(glance.answer) as url, cloud_at(url) as cloud, pytest.raises(CloudError, match=words):
        cloud.tagged("deployment")


@pytest.mark.parametrize(
    "told",
    [
        [],
        b"no json",
        b"[" * 100_000,
        {},
        {"images": {"id": "1"}},
        {"images": ["1"]},
        {"images": [{"id": "1"}]},
        {"images": [{"id": 1, "status": "active"}]},
        {"images": [{"id": "../metadefs", "status": "active"}]},
        {"images": [], "next": 7},
        {"images": [], "next": "http://[/"},
    ],
    ids=str,
)
def test_invalid_answer_is_reported_as_no_image_service(told: Any) -> None:
    refused(HostileGlance(lambda handler: send(handler, told)), "is not an image service")


def test_glance_schema_is_never_requested() -> None:
    record = {"id": "a" * 40 + "A", "status": "queued"}
    glance = HostileGlance(lambda handler: send(handler, {"images": [record]} if "?" in handler.path else record))
    with serving(glance.answer) as url, cloud_at(url) as cloud:
        assert [each.cloud_id for each in cloud.tagged("deployment")] == [record["id"]]
        with pytest.raises(TransientCloudError, match="still queued after its deletion"):
            cloud.delete(record["id"], Tags("ticket", "deployment"))
    assert len(glance.paths) == 3
    assert [each for each in glance.paths if "schemas" in each] == []


def test_image_that_is_listed_as_hidden_and_not_hidden_counts_once() -> None:
    record = {"id": "an-image", "status": "active", "publisher_ticket": "a-ticket"}
    glance = HostileGlance(lambda handler: send(handler, {"images": [record, record]}))
    with serving(glance.answer) as url, cloud_at(url) as cloud:
        assert [each.cloud_id for each in cloud.tagged_by(Tags("a-ticket", "deployment"))] == ["an-image"]
    assert [parse_qs(urlsplit(each).query).get("os_hidden") for each in glance.paths] == [None, ["true"]]


@pytest.mark.parametrize(("status", "gone"), [("deleted", True), ("pending_delete", True), ("active", False)])
def test_image_that_glance_stopped_deleting_counts_as_deleted(status: str, gone: bool) -> None:
    """A Glance that is killed in the middle of a deletion keeps the record, and refuses to delete it again."""
    record = {"id": "an-image", "status": status}

    def page(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "DELETE":
            handler.send_error(400, f"Image status transition from {status} to deleted is not allowed")
        else:
            send(handler, record)

    with serving(HostileGlance(page).answer) as url, cloud_at(url) as cloud:
        if gone:
            cloud.delete(record["id"], Tags("ticket", "deployment"))
        else:
            with pytest.raises(PermanentCloudError, match="400"):
                cloud.delete(record["id"], Tags("ticket", "deployment"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("limit", "value", "words", "requests_max"),
    [
        ("_PAGES_MAX", 20, "a list without end", 20),
        ("_LIST_BYTES_MAX", 400, "a list without end", 1000),
        ("_LIST_SECONDS", 0.2, "did not finish the list", 1000),
    ],
)
def test_endless_list_is_stopped_at_each_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float, words: str, requests_max: int
) -> None:
    monkeypatch.setattr(images, limit, value)
    glance = HostileGlance(endless)
    refused(glance, words)
    # On a slow machine, the first page alone may take all the time.
    assert (1 if limit == "_LIST_SECONDS" else 2) <= len(glance.paths) <= requests_max
    assert all("limit=200" in each for each in glance.paths)


def test_list_whose_pages_loop_is_refused() -> None:
    glance = HostileGlance(lambda handler: send(handler, {"images": [], "next": "/v2/images?marker=1"}))
    refused(glance, "a list without end")
    assert len(glance.paths) == 2


def test_link_to_the_next_page_cannot_change_host_or_path() -> None:
    def pages(handler: BaseHTTPRequestHandler) -> None:
        again = "marker" in handler.path
        send(handler, {"images": []} | ({} if again else {"next": "http://127.0.0.1:9/v2/other?marker=1&limit=9"}))

    glance = HostileGlance(pages)
    with serving(glance.answer) as url, cloud_at(url) as cloud:
        assert cloud.tagged("deployment") == []
    assert len(glance.paths) == 2
    assert glance.paths[1].startswith("/v2/images?publisher_deployment=deployment")


# Endless answers ------------------------------------------------------------------------------------------------------


def broken_off(behaviour: Callable[[Upload], None], call_seconds: float = 1.0) -> CloudError:
    with (
        upload_server(behaviour) as glance,
        cloud_at(f"http://127.0.0.1:{glance.port}", call_seconds=call_seconds) as cloud,
    ):
        began = time.monotonic()
        with pytest.raises(CloudError) as caught:
            cloud.tagged("deployment")
        assert time.monotonic() - began < (call_seconds + 2) * PATIENCE
    return caught.value


def forever(upload: Upload, piece: bytes, pause: float) -> None:
    while not upload.stop.wait(pause):
        upload.answer(piece)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["status", "header", "body", "chunk"],
)
@pytest.mark.long
def test_answer_that_trickles_in_times_out(begun: bytes, piece: bytes) -> None:
    def behaviour(upload: Upload) -> None:
        upload.answer(begun)
        forever(upload, piece, 0.1)

    error = broken_off(behaviour)
    assert isinstance(error, TransientCloudError)
    assert "timed out" in str(error)


@pytest.mark.long
def test_endless_interim_answers_time_out() -> None:
    error = broken_off(lambda upload: forever(upload, b"HTTP/1.1 100 Continue\r\n\r\n", 0))
    assert "timed out" in str(error)


@pytest.mark.parametrize("header", [b"", b"Content-Encoding: gzip\r\n"])
def test_too_long_answer_is_a_permanent_error(header: bytes) -> None:
    def behaviour(upload: Upload) -> None:
        upload.answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + header + b"\r\n")
        forever(upload, b" " * (1 << 20), 0)

    error = broken_off(behaviour, call_seconds=60)
    assert isinstance(error, PermanentCloudError)
    assert str(error).endswith(f"answers with more than {ANSWER_BYTES_MAX >> 20} MiB")


@pytest.mark.long
def test_endless_interim_answers_to_an_upload_time_out(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"a disk")

    def behaviour(upload: Upload) -> None:
        upload.read_body()
        forever(upload, b"HTTP/1.1 100 Continue\r\n\r\n", 0)

    with (
        upload_server(behaviour) as glance,
        (tmp_path / "disk").open("rb") as file,
        pytest.raises(TransientCloudError, match="no answer within"),
    ):
        Transfer(file.fileno(), 6).put(glance.url, {}, answer_seconds=0.5)


# Checks, cancels and deadlines ----------------------------------------------------------------------------------------


@pytest.mark.long
def test_check_that_raises_stops_a_call_in_progress() -> None:
    asked = time.monotonic()

    def check() -> None:
        # Raise only in the middle of Glance's answer: signing in calls this check, too.
        if glance.uploads:
            raise Stopped

    with upload_server(lambda upload: forever(upload, b"H", 0.1)) as glance:  # noqa: SIM117  # the account needs its address
        with account_at(f"http://127.0.0.1:{glance.port}") as account:
            cloud = OpenStackPublisher.connect(account, TARGET, Timeouts(5, 600, 600), EVERYWHERE, check)
            with pytest.raises(Stopped):
                cloud.tagged("deployment")
            cloud.close()
    assert time.monotonic() - asked < 3 * PATIENCE


@pytest.mark.parametrize(("stop", "ends"), [("cancel", State.CANCELLED), ("deadline", State.FAILED)])
@pytest.mark.long
def test_endless_list_stops_at_a_cancel_or_the_deadline(
    sqlite_store: Store, tmp_path: Path, stop: str, ends: State
) -> None:
    glance = HostileGlance(slowly_endless)
    deadline = 5.0 if stop == "deadline" else 3600.0
    settings = Settings(data_dir=tmp_path, progress_seconds=0.02, deadline_seconds=deadline)
    vault = Vault.from_file(settings.key_file)
    add_image(sqlite_store, settings.images, b"a disk")
    with serving(glance.answer) as url, account_at(url) as account:
        ticket = add_ticket(
            sqlite_store,
            image_size=6,
            platform="openstack",
            account=dict(account.fields),
            sealed_secrets=vault.seal({"password": PASSWORD}),
            target=dict(TARGET.fields),
        )

        def stop_it() -> None:
            until(lambda: len(glance.paths) > 1, 10)
            sqlite_store.tickets.request_cancel(ticket.id)

        began = time.monotonic()
        stopping = threading.Thread(target=stop_it)
        if stop == "cancel":
            stopping.start()
        assert Runner(sqlite_store, vault, settings, worker="w").run(ticket.id) is ends
        assert time.monotonic() - began < 5 * PATIENCE
        if stop == "cancel":
            stopping.join()
    assert current(sqlite_store, ticket).state is ends
    assert 1 < len(glance.paths) < 50
