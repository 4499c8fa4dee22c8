"""A worker's connections for callers: inner addresses are refused, and an account's CA bundle decides about trust.

The tests allow 127.0.0.2 and forbid 127.0.0.1. Servers with real sockets at both addresses record who connects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from publisher.core.errors import InvalidRequest, NetworkRefused, PermanentCloudError, Reason
from publisher.core.settings import Settings
from publisher.core.ticket import Account, State, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import EVERYWHERE, OutboundPolicy
from publisher.store import Store
from tests.keystone_v2 import KeystoneV2Stub
from tests.records import add_image, add_ticket, current, words
from tests.servers.answering import redirecting, serving
from tests.servers.certificates import Authority, authority
from tests.servers.listening import Listening, listening
from tests.servers.silent import silent_server
from tests.servers.uploads import Upload, upload_server
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.clouds.openstack.session import Reach, SignIn, sign_in
from workers.fetch import fetch
from workers.http_clients import requests_session, trust
from workers.runner import Runner
from workers.transfer import Transfer

PASSWORD = "hunter2-of-the-cloud"
TIMEOUTS = Timeouts(5, 10, 10)
GUARDED = OutboundPolicy.of(Settings(production=True, outbound_allow="127.0.0.2"))


@pytest.fixture
def inner() -> Iterator[Listening]:
    """A server at an inner address. The test fails if anything has connected to it."""
    with listening() as server:
        yield server
    assert server.connections == []


def account(keystone_url: str, **fields: str) -> Account:
    plain = {"keystoneUrl": keystone_url, "login": "joe", "keystoneVersion": "v3"}
    return Account("openstack", plain | fields, {"password": PASSWORD})


def by_name(server: Listening) -> list[str]:
    """Return the server's URLs in the spellings that callers may use."""
    names = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.1", "[::ffff:127.0.0.1]")
    return [f"http://{name}:{server.port}" for name in names]


@pytest.mark.long
@pytest.mark.parametrize("version", ["v3", "v2.0", ""])
def test_an_inner_keystone_is_refused(inner: Listening, version: str) -> None:
    for url in by_name(inner):
        who = SignIn.of(account(url, keystoneVersion=version), Target("openstack", {"keystoneProject": "t"}))
        with pytest.raises(NetworkRefused, match="a loopback address"):
            sign_in(who, Reach(TIMEOUTS, GUARDED, trust()))


@pytest.mark.parametrize("version", ["v3", "v2.0", ""])
def test_keystone_redirect_to_an_inner_address_is_refused(inner: Listening, version: str) -> None:
    with serving(redirecting(f"http://localhost:{inner.port}/v3")) as url:
        who = SignIn.of(account(url, keystoneVersion=version), Target("openstack", {"keystoneProject": "t"}))
        with pytest.raises(NetworkRefused, match="'localhost' resolves to a loopback address"):
            sign_in(who, Reach(TIMEOUTS, GUARDED, trust()))


def test_an_inner_glance_is_refused(inner: Listening) -> None:
    """Keystone's address is allowed. Glance's is not, whether the account or the catalog names it."""
    policy = OutboundPolicy.of(Settings(outbound_deny="127.0.0.2"))
    with KeystoneV2Stub("http://127.0.0.2:9", users={"joe": PASSWORD}, tenants={"t"}) as keystone:
        for fields in ({"glanceUrl": "http://127.0.0.2:9"}, {}):
            target = Target("openstack", {"tenantName": "t"})
            made = account(keystone.url, keystoneVersion="v2.0", **fields)
            cloud = OpenStackPublisher.connect(made, target, TIMEOUTS, policy)
            with pytest.raises(NetworkRefused, match=r"^'127\.0\.0\.2' is an address that PUBLISHER_OUTBOUND_DENY"):
                cloud.tagged("deployment")
            cloud.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_image_is_sent_to_an_inner_address(inner: Listening, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "disk").write_bytes(b"a disk")
    with (tmp_path / "disk").open("rb") as file, pytest.raises(NetworkRefused):
        Transfer(file.fileno(), 6, policy=GUARDED).put(f"{scheme}://localhost:{inner.port}/x", {}, tls=trust())


@pytest.mark.long
def test_no_image_is_fetched_from_an_inner_address(inner: Listening) -> None:
    settings = Settings(production=True, outbound_allow="127.0.0.2", location_hosts="*")
    with serving(redirecting(f"http://localhost:{inner.port}/disk.raw")) as redirect:
        for url in (*by_name(inner), redirect):
            # aiohttp rejects a URL whose host is a number.
            with pytest.raises((NetworkRefused, InvalidRequest), match=r"a loopback address|is not a valid URL"):
                fetch(f"{url}/disk.raw", settings, expect=lambda _: None, take=lambda _: None, check=lambda: None)


def test_a_proxy_of_the_environment_is_not_used(inner: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, inner.url)
        monkeypatch.setenv(name.upper(), inner.url)
    received: list[bytes] = []

    def disk(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"disk")

    with serving(disk) as url:
        settings = Settings(production=True, outbound_allow="127.0.0.2", location_hosts="*")
        fetch(f"{url}/d", settings, expect=lambda _: None, take=received.append, check=lambda: None)
    assert b"".join(received) == b"disk"
    with KeystoneV2Stub("http://127.0.0.2:9", users={"joe": PASSWORD}, tenants={"t"}) as keystone:
        who = SignIn.of(account(keystone.url, keystoneVersion="v2.0"), Target("openstack", {"tenantName": "t"}))
        assert sign_in(who, Reach(TIMEOUTS, EVERYWHERE, trust())).get_token()


def test_ticket_with_an_inner_address_fails_at_once_and_says_why(
    inner: Listening, sqlite_store: Store, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, production=True, progress_seconds=0.02)
    vault = Vault.from_file(settings.key_file)
    add_image(sqlite_store, settings.images, b"a disk")
    ticket = add_ticket(
        sqlite_store,
        image_size=6,
        platform="openstack",
        account={"keystoneUrl": f"http://localhost:{inner.port}", "login": "joe"},
        sealed_secrets=vault.seal({"password": PASSWORD}),
        target={"keystoneProject": "t", "displayName": "x"},
    )
    assert Runner(sqlite_store, vault, settings, worker="w").run(ticket.id) is State.FAILED
    failed = current(sqlite_store, ticket)
    assert failed.error is not None
    assert failed.error.startswith(
        "'localhost' resolves to a loopback address, which this installation does not connect"
    )
    assert failed.attempt == 1
    assert PASSWORD not in " ".join(words(sqlite_store, ticket))
    assert NetworkRefused.reason is Reason.NETWORK_POLICY


# Time-outs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30, (10, 30), (None, 30), (10, None), (None, None)])
def test_call_takes_a_time_out_or_a_pair(timeout: Any) -> None:
    """The clients of Azure and Google give pairs."""
    with serving(redirecting("http://127.0.0.1:9/")) as url:
        session = requests_session(EVERYWHERE, trust())
        assert session.get(url, timeout=timeout, allow_redirects=False).status_code == 307


@pytest.mark.long
@pytest.mark.parametrize("timeout", [0.2, (5, 0.2)])
def test_time_out_of_a_pair_ends_a_call(timeout: Any) -> None:
    with silent_server() as port, pytest.raises(requests.exceptions.ReadTimeout):
        requests_session(EVERYWHERE, trust()).get(f"http://127.0.0.1:{port}/", timeout=timeout)


def test_first_time_out_of_a_pair_is_that_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []

    def refuse(policy: OutboundPolicy, host: str, port: int, seconds: float | None) -> None:
        given.append(seconds)
        raise ConnectionRefusedError

    monkeypatch.setattr(OutboundPolicy, "connect", refuse)
    session = requests_session(EVERYWHERE, trust(), connect_seconds=7)
    for timeout in (3, 30, (2, 30), (30, 2), (30, 30)):
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get("http://127.0.0.1:9/", timeout=timeout)
    assert given == [3, 7, 2, 2, 7]


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


def glance_answer(upload: Upload) -> None:
    """Answer an upload with 204, and any other request with an empty list of images."""
    if upload.head.startswith(b"PUT"):
        upload.read_body()
        upload.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    else:
        body = b'{"images": []}'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        upload.answer(head.encode() + b"\r\n\r\n" + body)


def test_cloud_is_trusted_through_the_ca_bundle_of_its_account(ours: Authority, tmp_path: Path) -> None:
    with (
        upload_server(glance_answer, tls=ours.server) as glance,
        KeystoneV2Stub("", users={"joe": PASSWORD}, tenants={"t"}, tls=ours.server) as keystone,
    ):
        keystone.glance_url = f"https://127.0.0.1:{glance.port}"
        target = Target("openstack", {"tenantName": "t"})
        made = account(keystone.url, keystoneVersion="v2.0", caBundle=ours.pem)
        cloud = OpenStackPublisher.connect(made, target, TIMEOUTS, EVERYWHERE)
        assert cloud.tagged("deployment") == []
        (tmp_path / "disk").write_bytes(b"a disk")
        with (tmp_path / "disk").open("rb") as file:
            assert cloud._put("1", Transfer(file.fileno(), 6)).status == 204
        cloud.close()
    assert glance.uploads[-1].body == b"a disk"


@pytest.mark.parametrize("bundle", ["none", "another's"])
def test_cloud_is_not_trusted_without_its_ca_bundle(ours: Authority, tmp_path: Path, bundle: str) -> None:
    given = {} if bundle == "none" else {"caBundle": authority(tmp_path).pem}
    (tmp_path / "disk").write_bytes(b"a disk")
    with (
        upload_server(glance_answer, tls=ours.server) as glance,
        KeystoneV2Stub("", users={"joe": PASSWORD}, tenants={"t"}, tls=ours.server) as keystone,
        (tmp_path / "disk").open("rb") as file,
    ):
        made = account(keystone.url, keystoneVersion="v2.0", **given)
        with pytest.raises(PermanentCloudError, match=r"is not trusted \(.+\); give its CA certificate as caBundle"):
            OpenStackPublisher.connect(made, Target("openstack", {"tenantName": "t"}), TIMEOUTS, EVERYWHERE)
        with pytest.raises(PermanentCloudError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
            Transfer(file.fileno(), 6).put(glance.url, {}, tls=trust(given.get("caBundle")))
    assert glance.uploads == []


def test_ca_bundle_replaces_the_authorities_of_the_worker(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each["subject"] for each in trust(ours.pem).get_ca_certs()] == [
        ((("commonName", "An authority of the tests"),),)
    ]
    assert len(trust().get_ca_certs()) > 10
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    assert trust(ours.pem).get_ca_certs()
