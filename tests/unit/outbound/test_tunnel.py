"""What a proxy may answer to CONNECT, over real sockets: well-behaved ones, and hostile ones."""

from __future__ import annotations

import socket
import time
from base64 import b64encode
from collections.abc import Callable

import pytest

from publisher.core.errors import CloudError, PermanentCloudError, Reason, TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import Account
from publisher.outbound.policy import EVERYWHERE, OutboundPolicy
from tests.patience import PATIENCE
from tests.servers.process import free_port
from tests.servers.uploads import Upload, UploadServer, upload_server

PASSWORD = "hunter2-of-the-proxy"
BASIC = b64encode(f"joe:{PASSWORD}".encode()).decode()
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def through(server: UploadServer, login: str = f"joe:{PASSWORD}@") -> OutboundPolicy:
    return OutboundPolicy.of(Settings(http_proxy=f"http://{login}127.0.0.1:{server.port}"))


def answering(answer: bytes) -> Callable[[Upload], None]:
    return lambda upload: upload.answer(answer)


def echo(upload: Upload) -> None:
    upload.answer(OPENED)
    upload.answer(upload.connection.recv(100))


def refused(behaviour: Callable[[Upload], None], seconds: float = 30.0 * PATIENCE) -> CloudError:
    """Ask for a connection in vain. Returns the error, which names the proxy and shows no password."""
    with upload_server(behaviour) as server, pytest.raises(CloudError) as caught:
        through(server).connect("cloud.example.com", 5000, seconds)
    assert f"the proxy 127.0.0.1:{server.port} " in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert BASIC not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("cloud.example.com", "cloud.example.com:5000"),
        ("10.1.2.3", "10.1.2.3:5000"),
        ("[2001:db8::1]", "[2001:db8::1]:5000"),
        ("2001:db8::1", "[2001:db8::1]:5000"),
        ("bücher.example", "xn--bcher-kva.example:5000"),
    ],
)
def test_proxy_is_asked_for_the_host_and_then_passes_bytes_on(host: str, target: str) -> None:
    with upload_server(echo) as server:
        made = through(server).connect(host, 5000, 7.0 * PATIENCE)
        with made:
            assert made.gettimeout() == 7.0 * PATIENCE
            made.sendall(b"hello")
            assert made.recv(100) == b"hello"
    (request,) = server.uploads
    assert request.head.split(b"\r\n")[0] == f"CONNECT {target} HTTP/1.1".encode()
    assert request.headers["host"] == target
    assert request.headers["proxy-authorization"] == f"Basic {BASIC}"


def test_no_login_is_sent_if_none_is_configured() -> None:
    with upload_server(echo) as server:
        through(server, login="").connect("cloud.example.com", 5000, 30.0 * PATIENCE).close()
    assert "proxy-authorization" not in server.uploads[0].headers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OPENED,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % each for each in range(500)) + b"\r\n",
    ],
)
def test_every_form_of_consent_is_understood(answer: bytes) -> None:
    def consent(upload: Upload) -> None:
        for byte in answer:  # in pieces, as a network may divide it
            upload.answer(bytes([byte]))
        upload.answer(upload.connection.recv(100))

    with (
        upload_server(consent) as server,
        through(server).connect("cloud.example.com", 5000, 30.0 * PATIENCE) as made,
    ):
        made.sendall(b"hello")
        assert made.recv(100) == b"hello"


@pytest.mark.parametrize(
    ("status", "kind", "reason", "words"),
    [
        ("403 Forbidden", PermanentCloudError, Reason.NETWORK_POLICY, "to cloud.example.com:5000 (403); ask its"),
        (
            "407 Who are you",
            PermanentCloudError,
            Reason.CONFIGURATION,
            "rejected its login (407); check PUBLISHER_HTTP",
        ),
        ("401 Unauthorized", PermanentCloudError, Reason.CONFIGURATION, "rejected its login (401); check PUBLISHER_H"),
        ("500 Unable to connect", TransientCloudError, Reason.CONNECTION, "cannot connect to cloud.example.com:5000"),
        ("502 Bad Gateway", TransientCloudError, Reason.CONNECTION, "(502)"),
        ("503 Service Unavailable", TransientCloudError, Reason.CONNECTION, "(503)"),
        ("504 Gateway Timeout", TransientCloudError, Reason.CONNECTION, "(504)"),
        ("429 Too Many Requests", TransientCloudError, Reason.CONNECTION, "(429)"),
        ("501 Not Implemented", PermanentCloudError, Reason.CONFIGURATION, "it is no proxy, or refuses; check PUBLISH"),
        ("405 Method Not Allowed", PermanentCloudError, Reason.CONFIGURATION, "answered 405"),
        ("400 Bad Request", PermanentCloudError, Reason.CONFIGURATION, "answered 400"),
        ("302 Found", PermanentCloudError, Reason.CONFIGURATION, "answered 302"),
    ],
)
def test_refusal_says_who_refuses_what(status: str, kind: type[CloudError], reason: Reason, words: str) -> None:
    error = refused(answering(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nreason".encode()))
    assert type(error) is kind
    assert error.reason is reason
    assert words in str(error)


def test_missing_login_and_other_kinds_of_login_are_told_apart() -> None:
    needs = b"HTTP/1.1 407 No\r\nProxy-Authenticate: %s\r\nContent-Length: 0\r\n\r\n"
    assert "rejected its login" in str(refused(answering(needs % b'Digest realm="x"\r\nProxy-Authenticate: Basic')))
    assert "does not accept Basic authentication (407)" in str(refused(answering(needs % b"Negotiate")))
    with (
        upload_server(answering(needs % b"Basic")) as server,
        pytest.raises(PermanentCloudError, match=r"requires a login \(407\); give it in PUBLISHER_HTTP_PROXY"),
    ):
        through(server, login="").connect("cloud.example.com", 5000, 30.0 * PATIENCE)


def test_refusal_by_the_proxy_of_an_account_names_its_elements() -> None:
    with upload_server(answering(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as server:
        fields = {"proxyUrl": f"http://127.0.0.1:{server.port}", "proxyLogin": "joe"}
        policy = EVERYWHERE.for_account(Account("openstack", fields, {"proxyPassword": PASSWORD}))
        with pytest.raises(
            PermanentCloudError, match=r"check credAccount\.proxyLogin and credAccount\.proxyPassword"
        ) as caught:
            policy.connect("cloud.example.com", 5000, 30.0 * PATIENCE)
    assert caught.value.reason is Reason.CREDENTIALS
    assert server.uploads[0].headers["proxy-authorization"] == f"Basic {BASIC}"


# Hostile proxies ------------------------------------------------------------------------------------------------------


def flood(upload: Upload) -> None:
    upload.answer(b"HTTP/1.1 200 OK\r\n")
    while not upload.stop.is_set():
        upload.answer(b"X-Filler: " + b"x" * 4096 + b"\r\n")


def one_endless_line(upload: Upload) -> None:
    while not upload.stop.is_set():
        upload.answer(b"x" * 4096)


def close_at_once(upload: Upload) -> None:
    """Close the connection without an answer."""


def repeat_the_login(upload: Upload) -> None:
    said = upload.headers["proxy-authorization"].encode()
    upload.answer(b"HTTP/1.1 403 " + said + b"\r\nX-Said: " + said + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "behaviour",
    [
        flood,
        one_endless_line,
        close_at_once,
        lambda upload: upload.reset(),
        answering(b"SSH-2.0-OpenSSH_9.2\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nX-Half: "),
        answering(b"HTTP/1.1 abc\r\n\r\n"),
        answering(b"\x16\x03\x01\x02\x00\x01"),
        answering(OPENED + b"220 mail.example.com ESMTP\r\n"),
    ],
)
def test_answer_that_is_no_proxys_is_a_transient_error(behaviour: Callable[[Upload], None]) -> None:
    error = refused(behaviour)
    assert type(error) is TransientCloudError
    assert error.reason is Reason.CONNECTION
    assert "cannot be used at the moment: " in str(error)


def test_proxy_that_repeats_the_login_does_not_get_it_shown() -> None:
    assert isinstance(refused(repeat_the_login), PermanentCloudError)


def drop_by_drop(upload: Upload) -> None:
    upload.answer(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    while not upload.stop.wait(0.05):
        upload.answer(b"x")


def keep_waiting(upload: Upload) -> None:
    while not upload.stop.wait(0.05):
        upload.answer(b"HTTP/1.1 100 Continue\r\n\r\n")


def say_nothing(upload: Upload) -> None:
    upload.stop.wait(60 * PATIENCE)


@pytest.mark.long
@pytest.mark.parametrize("behaviour", [drop_by_drop, keep_waiting, say_nothing])
def test_time_limit_includes_the_answer_of_the_proxy(behaviour: Callable[[Upload], None]) -> None:
    began = time.monotonic()
    error = refused(behaviour, seconds=0.5)
    assert time.monotonic() - began < 5 * PATIENCE
    assert isinstance(error, TransientCloudError)
    assert "it did not answer in time" in str(error)


def test_unreachable_proxy_is_a_transient_error() -> None:
    for host in ("127.0.0.1", "no-such-proxy.invalid"):
        policy = OutboundPolicy.of(Settings(http_proxy=f"http://joe:{PASSWORD}@{host}:{free_port()}"))
        with pytest.raises(TransientCloudError, match=f"the proxy {host}:.* cannot be used at the moment: ") as caught:
            policy.connect("cloud.example.com", 5000, 5.0 * PATIENCE)
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("host", ["a b", "a\r\nX-Injected: 1", "cloud/../", "", "a" * 300 + "ü"])
def test_what_is_no_host_name_never_reaches_the_proxy(host: str) -> None:
    with upload_server(echo) as server, pytest.raises(OSError, match="Name or service not known"):
        through(server).connect(host, 5000, 5.0 * PATIENCE)
    assert all(not each.head for each in server.uploads)


def test_connection_is_closed_after_a_refusal() -> None:
    ended: list[bytes] = []

    def refuse(upload: Upload) -> None:
        upload.answer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        upload.connection.settimeout(30 * PATIENCE)
        ended.append(upload.connection.recv(1))

    refused(refuse)
    assert ended == [b""]


def test_sockets_of_both_families_reach_a_proxy() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        policy = OutboundPolicy.of(Settings(http_proxy=f"http://[::1]:{listener.getsockname()[1]}"))
        with pytest.raises(TransientCloudError, match=r"the proxy \[::1\]:\d+ cannot be used"):
            policy.connect("cloud.example.com", 5000, 0.2)
