"""Everything that a worker connects to for a caller is reached through a real proxy: tinyproxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from publisher.core.errors import PermanentCloudError, Reason, TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, State, Target, Ticket
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from publisher.outbound.policy import OutboundPolicy
from publisher.store import Store
from tests.clouds import Glance
from tests.keystone_v2 import KeystoneV2Stub
from tests.records import add_image, add_ticket, current, words
from tests.servers.answering import redirecting, serving
from tests.servers.certificates import Authority, authority
from tests.servers.tinyproxy import TinyProxy, tinyproxy
from tests.servers.uploads import Upload, upload_server
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.fetch import fetch
from workers.runner import Runner
from workers.transfer import Transfer

pytestmark = pytest.mark.real

LOGIN, PASSWORD = "worker", "hunter2-of-the-proxy"
CLOUD_PASSWORD = "hunter2-of-the-cloud"
TIMEOUTS = Timeouts(10, 20, 20)
SIZE = 3 << 20


@pytest.fixture(scope="module")
def proxy() -> Iterator[TinyProxy]:
    """A proxy that requires a login."""
    with tinyproxy(login=LOGIN, password=PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(bytes(range(256)) * (SIZE // 256))
    return tmp_path / "disk"


def url_of(proxy: TinyProxy, login: str = f"{LOGIN}:{PASSWORD}@") -> str:
    return f"http://{login}{proxy.where}"


def glance_answer(upload: Upload) -> None:
    """Answer an upload with 204, and any other request with an empty list of images."""
    if upload.head.startswith(b"PUT"):
        upload.read_body()
        upload.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    else:
        body = b'{"images": []}'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        upload.answer(head.encode() + b"\r\n\r\n" + body)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_keystone_and_glance_are_reached_through_the_proxy(
    proxy: TinyProxy, ours: Authority, file: Path, scheme: str
) -> None:
    policy = OutboundPolicy.of(Settings(http_proxy=url_of(proxy)))
    tls = ours.server if scheme == "https" else None
    with (
        upload_server(glance_answer, tls=tls) as glance,
        KeystoneV2Stub("", users={"joe": CLOUD_PASSWORD}, tenants={"t"}, tls=tls) as keystone,
        file.open("rb") as opened,
    ):
        keystone.glance_url = f"{scheme}://127.0.0.1:{glance.port}"
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0", "caBundle": ours.pem}
        account = Account("openstack", fields, {"password": CLOUD_PASSWORD})
        cloud = OpenStackPublisher.connect(account, Target("openstack", {"tenantName": "t"}), TIMEOUTS, policy)
        assert cloud.tagged("deployment") == []
        assert cloud._put("1", Transfer(opened.fileno(), SIZE, policy=policy)).status == 204
        cloud.close()
    assert glance.uploads[-1].body == file.read_bytes()
    assert {urlsplit(each).netloc for each in (keystone.url, keystone.glance_url)} <= set(proxy.asked_for)
    assert proxy.asked_for[-2:] == [f"127.0.0.1:{glance.port}"] * 2


def test_addresses_of_ipv6_work_for_the_proxy_and_for_the_cloud() -> None:
    with (
        tinyproxy(host="::1") as proxy,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
    ):
        port = server.getsockname()[1]
        made = OutboundPolicy.of(Settings(http_proxy=proxy.url)).connect("::1", port, 10)
        inward, _ = server.accept()
        with made, inward:
            made.sendall(b"hello")
            assert inward.recv(5) == b"hello"
        assert proxy.asked_for == [f"[::1]:{port}"]


def test_image_is_fetched_through_the_proxy(proxy: TinyProxy) -> None:
    received: list[bytes] = []

    def disk(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"disk")

    with serving(disk) as origin, serving(redirecting(f"{origin}/disk")) as first:
        settings = Settings(http_proxy=url_of(proxy), location_hosts="*")
        fetch(f"{first}/d", settings, expect=lambda _: None, take=received.append, check=lambda: None)
        assert b"".join(received) == b"disk"
        assert proxy.asked_for[-2:] == [urlsplit(first).netloc, urlsplit(origin).netloc]
        before = len(proxy.asked_for)
        direct = Settings(http_proxy=url_of(proxy), no_proxy="127.0.0.0/8", location_hosts="*")
        fetch(f"{first}/d", direct, expect=lambda _: None, take=received.append, check=lambda: None)
    assert len(proxy.asked_for) == before
    assert b"".join(received) == b"diskdisk"


def test_image_is_fetched_by_tls_through_the_proxy(
    proxy: TinyProxy, ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk(upload: Upload) -> None:
        upload.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndisk")

    (tmp_path / "ca.pem").write_text(ours.pem)
    received: list[bytes] = []
    with upload_server(disk, tls=ours.server) as origin:
        settings = Settings(http_proxy=url_of(proxy), location_hosts="*")
        url = f"https://127.0.0.1:{origin.port}/disk"
        with pytest.raises(PermanentCloudError, match="is not trusted"):
            fetch(url, settings, expect=lambda _: None, take=received.append, check=lambda: None)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        fetch(url, settings, expect=lambda _: None, take=received.append, check=lambda: None)
    assert b"".join(received) == b"disk"
    assert proxy.asked_for[-1] == f"127.0.0.1:{origin.port}"


@pytest.mark.parametrize("login", ["", f"{LOGIN}:wrong@"])
def test_wrong_login_at_the_proxy_stops_a_fetch(proxy: TinyProxy, login: str) -> None:
    settings = Settings(http_proxy=url_of(proxy, login), location_hosts="*")
    with pytest.raises(PermanentCloudError, match=r"the proxy .+ (requires a|rejected its) login \(40[17]\)"):
        fetch("http://cloud.invalid/d", settings, expect=lambda _: None, take=lambda _: None, check=lambda: None)


def test_proxy_that_cannot_resolve_a_name_is_a_transient_error(proxy: TinyProxy) -> None:
    policy = OutboundPolicy.of(Settings(http_proxy=url_of(proxy)))
    with pytest.raises(TransientCloudError, match=r"cannot connect to cloud\.invalid:443 \(5\d\d\)"):
        policy.connect("cloud.invalid", 443, 30)


# Tickets --------------------------------------------------------------------------------------------------------------


def run(
    store: Store,
    settings: Settings,
    cloud: DevCloud | None = None,
    proxy: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
) -> tuple[State | None, Ticket]:
    """Publish a small image in this process. Without a cloud, Keystone's address leads nowhere."""
    vault = Vault.from_file(settings.key_file)
    add_image(store, settings.images, b"a disk" * 10_000)
    env = cloud.env() if cloud else {"OS_USERNAME": "joe", "OS_PASSWORD": CLOUD_PASSWORD}
    account = {
        "keystoneUrl": cloud.keystone_url if cloud else "http://cloud.invalid:5000",
        "login": env["OS_USERNAME"],
        "keystoneVersion": "v3",
    }
    ticket = add_ticket(
        store,
        image_size=60_000,
        platform="openstack",
        account=account | (proxy or {}),
        sealed_secrets=vault.seal({"password": env["OS_PASSWORD"]} | (secrets or {})),
        target={
            "keystoneProject": env.get("OS_PROJECT_NAME", "t"),
            "keystoneDomain": env.get("OS_PROJECT_DOMAIN_NAME", "Default"),
            "displayName": "x",
        },
    )
    state = Runner(store, vault, settings, worker="w").run(ticket.id)
    ended = current(store, ticket)
    said = " ".join([*words(store, ticket), ended.error or ""])
    assert PASSWORD not in said
    assert env["OS_PASSWORD"] not in said
    return state, ended


def test_account_publishes_through_its_own_proxy(
    sqlite_store: Store, tmp_path: Path, proxy: TinyProxy, devcloud: DevCloud, glance: Glance
) -> None:
    before = len(proxy.asked_for)
    named = {"proxyUrl": proxy.url, "proxyLogin": LOGIN}
    state, ticket = run(sqlite_store, Settings(data_dir=tmp_path), devcloud, named, {"proxyPassword": PASSWORD})
    assert (state, ticket.error) == (State.PUBLISHED, None)
    cloud = {urlsplit(each).netloc for each in (devcloud.keystone_url, devcloud.glance_url)}
    assert set(proxy.asked_for[before:]) == cloud
    (image,) = glance.images()
    assert (image["status"], image["size"]) == ("active", 60_000)


def test_account_with_its_own_proxy_is_reached_through_that_of_the_installation(
    sqlite_store: Store, tmp_path: Path, proxy: TinyProxy, devcloud: DevCloud, glance: Glance
) -> None:
    before = len(proxy.asked_for)
    with tinyproxy() as inner:
        settings = Settings(data_dir=tmp_path, http_proxy=url_of(proxy))
        state, ticket = run(sqlite_store, settings, devcloud, {"proxyUrl": inner.url})
        asked = set(inner.asked_for)
    assert (state, ticket.error) == (State.PUBLISHED, None)
    assert set(proxy.asked_for[before:]) == {inner.where}
    assert asked == {urlsplit(each).netloc for each in (devcloud.keystone_url, devcloud.glance_url)}


@pytest.mark.parametrize("whose", ["installation", "account"])
def test_ticket_fails_if_the_proxy_rejects_the_login(
    sqlite_store: Store, tmp_path: Path, proxy: TinyProxy, whose: str
) -> None:
    if whose == "account":
        named = {"proxyUrl": proxy.url, "proxyLogin": LOGIN}
        state, ticket = run(sqlite_store, Settings(data_dir=tmp_path), None, named, {"proxyPassword": "wrong"})
        reason, advice = Reason.CREDENTIALS, "credAccount.proxyLogin and credAccount.proxyPassword"
    else:
        settings = Settings(data_dir=tmp_path, http_proxy=url_of(proxy, f"{LOGIN}:wrong@"))
        state, ticket = run(sqlite_store, settings)
        reason, advice = Reason.CONFIGURATION, "PUBLISHER_HTTP_PROXY"
    assert (state, ticket.attempt, ticket.reason) == (State.FAILED, 1, reason)
    assert ticket.error == f"the proxy {proxy.where} rejected its login (401); check {advice}"


def test_ticket_fails_if_the_proxy_refuses_the_port(sqlite_store: Store, tmp_path: Path) -> None:
    """As squid does by default for all ports but 443."""
    with tinyproxy(ports=[443]) as strict:
        state, ticket = run(sqlite_store, Settings(data_dir=tmp_path, http_proxy=strict.url))
    assert (state, ticket.attempt, ticket.reason) == (State.FAILED, 1, Reason.NETWORK_POLICY)
    assert ticket.error == (
        f"the proxy {strict.where} does not allow connections to cloud.invalid:5000 (403); ask its administrator to"
        " allow CONNECT to this host and port"
    )


def test_ticket_waits_for_a_proxy_that_does_not_answer(sqlite_store: Store, tmp_path: Path) -> None:
    with tinyproxy() as gone:
        gone.kill()
        state, ticket = run(sqlite_store, Settings(data_dir=tmp_path, http_proxy=gone.url))
    assert (state, ticket.reason) == (State.QUEUED, Reason.CONNECTION)
    assert ticket.error == f"the proxy {gone.where} cannot be used at the moment: Connection refused"
