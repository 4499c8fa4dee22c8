"""The policy for outbound connections, alone and with connections over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from publisher.core.errors import (
    ConfigurationError,
    InvalidRequest,
    NetworkRefused,
    PermanentCloudError,
    Reason,
    TransientCloudError,
)
from publisher.core.settings import Settings
from publisher.core.ticket import Account
from publisher.outbound.policy import EVERYWHERE, AddressInfo, OutboundPolicy, check_named
from tests.patience import PATIENCE
from tests.servers.listening import listening
from tests.servers.uploads import Upload, UploadServer, upload_server


def policy(**settings: Any) -> OutboundPolicy:
    return OutboundPolicy.of(Settings(production=True, **settings))


INNER = [
    *("127.0.0.1", "127.8.9.10", "::1", "169.254.1.1", "169.254.169.254", "fe80::1", "fe80::1%lo", "fd00:ec2::254"),
    *("100.100.100.200", "168.63.129.16", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255"),  # noqa: S104
    *("240.0.0.1", "192.0.2.1", "2001:db8::1", "fec0::1", "4000::1", "100::1"),
    # IPv4-mapped, IPv4-compatible, IPv4-translated, 6to4, NAT64 and its local form, Teredo (server and client).
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1", "2002:7f00:1::"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2001:0:7f00:1::", "2001:0:808:808::80ff:fffe"),
]
OUTER = [
    *("8.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "2a00:1450::1", "fd12:3456::1"),
    *("::ffff:10.0.0.1", "::ffff:8.8.8.8", "2002:808:808::", "64:ff9b::808:808"),
]


@pytest.mark.parametrize("address", INNER)
def test_inner_address_is_refused_in_production(address: str) -> None:
    assert policy().refusal(address)
    assert EVERYWHERE.refusal(address) is None


@pytest.mark.parametrize("address", OUTER)
def test_outer_address_is_allowed_in_production(address: str) -> None:
    assert policy().refusal(address) is None


def test_allow_list_overrides_defaults_and_deny_list_overrides_both() -> None:
    made = policy(outbound_allow="127.0.0.0/8, 10.0.0.0/8", outbound_deny="127.0.0.53,10.1.0.0/16, fd00::/8")
    refused = {"127.0.0.53", "::ffff:127.0.0.53", "10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::", "fd00::1", "::1"}
    allowed = {"127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "8.8.8.8", "2002:7f00:1::"}
    assert {each for each in refused | allowed if made.refusal(each)} == refused


@pytest.mark.parametrize("address", ["0.0.0.0", "::ffff:0.0.0.0"])  # noqa: S104
def test_denied_loopback_includes_the_unspecified_address(address: str) -> None:
    assert OutboundPolicy.of(Settings(outbound_deny="127.0.0.0/8")).refusal(address)
    assert OutboundPolicy.of(Settings(outbound_deny="::1")).refusal("::")


def test_only_the_deny_list_applies_outside_production() -> None:
    made = OutboundPolicy.of(Settings(outbound_deny="127.0.0.2/32"))
    assert made.refusal("127.0.0.1") is None
    assert made.refusal("127.0.0.2")
    assert not made.open
    assert OutboundPolicy.of(Settings()).open
    assert not policy().open


@pytest.mark.parametrize("text", ["10.0.0.1/8", "example.com", "10.0.0.0/33", "10.0.0.0/8;11.0.0.0/8"])
@pytest.mark.parametrize("name", ["outbound_allow", "outbound_deny"])
def test_error_for_an_invalid_list_names_its_setting(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^PUBLISHER_{name.upper()}: "):
        policy(**{name: text})


# Connections --------------------------------------------------------------------------------------------------


def resolver(*answers: Sequence[str]) -> Callable[..., Sequence[AddressInfo]]:
    """Return a resolver whose first call gives the first answer, its second call the next one, and so on."""
    left = list(answers)

    def resolve(host: str, port: int, **_: Any) -> Sequence[AddressInfo]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [info for each in addresses for info in socket.getaddrinfo(each, port, type=socket.SOCK_STREAM)]

    return resolve


def test_allowed_address_is_connected_to() -> None:
    with listening() as server:
        EVERYWHERE.connect("localhost", server.port, 5).close()
        policy(outbound_allow="127.0.0.0/8").connect("127.0.0.1", server.port, 5).close()
    assert server.connections == ["127.0.0.1"] * 2


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "'127.0.0.1' is a loopback address"),
        ("localhost", "'localhost' resolves to a loopback address"),
        ("2130706433", "'2130706433' resolves to a loopback address"),
        ("0x7f.1", "'0x7f.1' resolves to a loopback address"),
        ("0177.0.0.1", "'0177.0.0.1' resolves to a loopback address"),
        ("[::1]", "'::1' is a loopback address"),
        ("::ffff:127.0.0.1", "'::ffff:127.0.0.1' is a loopback address"),
        ("0.0.0.0", "'0.0.0.0' is an unspecified address"),  # noqa: S104
        ("0", "'0' resolves to an unspecified address"),
    ],
)
def test_loopback_is_refused_in_every_notation(host: str, kind: str) -> None:
    with listening() as server, pytest.raises(NetworkRefused) as caught:
        policy().connect(host, server.port, 5)
    assert str(caught.value).startswith(f"{kind}, which this installation does not connect to; ")
    assert "PUBLISHER_OUTBOUND_ALLOW" in str(caught.value)
    assert isinstance(caught.value, PermanentCloudError)
    assert caught.value.reason is Reason.NETWORK_POLICY
    assert server.connections == []


@contextmanager
def unanswering(count: int) -> Iterator[int]:
    """Yield a port on 127.0.0.11 and the next addresses that accepts no connections, as the backlogs are full."""
    with contextlib.ExitStack() as kept:
        port = 0
        for each in range(11, 11 + count):
            listener = kept.enter_context(socket.create_server((f"127.0.0.{each}", port), backlog=0))
            port = listener.getsockname()[1]
            for _ in range(4):
                waiting = kept.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        yield port


@pytest.mark.long
def test_timeout_covers_all_addresses_together() -> None:
    with unanswering(3) as port:
        resolve = resolver([f"127.0.0.{each}" for each in (11, 12, 13)] * 10)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            EVERYWHERE.connect("many.example.com", port, 1.0, resolve=resolve)
        assert 0.9 < time.monotonic() - began < 2 * PATIENCE


@pytest.mark.long
def test_next_address_is_tried_if_one_does_not_answer() -> None:
    with unanswering(1) as port, listening("127.0.0.2", port) as server:
        made = EVERYWHERE.connect("two.example.com", port, 1.0, resolve=resolver(["127.0.0.11", "127.0.0.2"]))
        assert made.gettimeout() == 1.0
        made.close()
    assert server.connections == ["127.0.0.1"]


def test_rebound_name_is_checked_at_each_connection() -> None:
    """An allowed loopback address stands in for a public one, so that the test sees connections to it."""
    made = policy(outbound_allow="127.0.0.2")
    with listening("127.0.0.2") as public, listening("127.0.0.1", public.port) as inner:
        rebinding = resolver(["127.0.0.2"], ["127.0.0.1"])
        made.connect("rebinding.example.com", public.port, 5, resolve=rebinding).close()
        with pytest.raises(NetworkRefused):
            made.connect("rebinding.example.com", public.port, 5, resolve=rebinding)
    assert (public.connections, inner.connections) == (["127.0.0.1"], [])


def test_only_allowed_addresses_of_a_name_are_tried() -> None:
    made = policy(outbound_allow="127.0.0.2, 127.0.0.3")
    with listening("127.0.0.2") as public, listening("127.0.0.1", public.port) as inner:
        # Nobody listens at the second address.
        several = resolver(["127.0.0.1", "127.0.0.3", "127.0.0.2"])
        made.connect("several.example.com", public.port, 5, resolve=several).close()
    assert (len(public.connections), inner.connections) == (1, [])


def test_refusal_does_not_reveal_the_resolved_address() -> None:
    with pytest.raises(NetworkRefused) as caught:
        policy(outbound_deny="10.9.8.0/24").connect("db.example.com", 5432, 5, resolve=resolver(["10.9.8.7"]))
    assert str(caught.value) == (
        "'db.example.com' resolves to an address that PUBLISHER_OUTBOUND_DENY denies, which this installation does not"
        " connect to"
    )


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b", "x" * 300])
def test_unresolvable_name_raises_oserror(host: str) -> None:
    with pytest.raises(OSError, match=r"Name|name"):
        EVERYWHERE.connect(host, 80, 5)


# Proxies --------------------------------------------------------------------------------------------------------------


def consent(upload: Upload) -> None:
    upload.answer(b"HTTP/1.1 200 Connection established\r\n\r\n")


def asked_for(proxy: UploadServer) -> list[str]:
    return [each.head.split(b" ")[1].decode() for each in proxy.uploads]


def proxy_of_account(url: str, **fields: str) -> Account:
    return Account("openstack", {"proxyUrl": url, **fields}, {})


def test_proxy_of_the_installation_is_trusted_and_used_for_all_but_named_hosts() -> None:
    with upload_server(consent) as proxy, listening("127.0.0.2") as direct:
        url = f"http://127.0.0.1:{proxy.port}"
        made = policy(http_proxy=url, no_proxy="127.0.0.0/8", outbound_allow="127.0.0.2")
        made.connect("127.0.0.2", direct.port, 30.0 * PATIENCE).close()
        # No name is resolved for a network: this one would be in it.
        unguarded = OutboundPolicy.of(Settings(http_proxy=url, no_proxy="127.0.0.0/8"))
        unguarded.connect("localhost", direct.port, 30.0 * PATIENCE).close()
        made.connect("10.1.2.3", 443, 30.0 * PATIENCE).close()
        assert made.through_proxy("10.1.2.3")
        assert not made.through_proxy("127.0.0.2")
    assert direct.connections == ["127.0.0.1"]
    assert asked_for(proxy) == [f"localhost:{direct.port}", "10.1.2.3:443"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0177.1", "[::1]", "169.254.169.254"])
def test_inner_address_is_not_reached_through_the_proxy_either(host: str) -> None:
    with upload_server(consent) as proxy:
        made = policy(http_proxy=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(NetworkRefused, match="which this installation does not connect to"):
            made.connect(host, 80, 30.0 * PATIENCE)
    assert proxy.uploads == []


def test_name_that_only_the_proxy_can_resolve_is_left_to_it() -> None:
    with upload_server(consent) as proxy:
        made = policy(http_proxy=f"http://127.0.0.1:{proxy.port}", outbound_deny="10.0.0.0/8")
        made.connect("cloud.invalid", 443, 30.0 * PATIENCE).close()
    assert asked_for(proxy) == ["cloud.invalid:443"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}", "http://localhost:{}", "http://[::ffff:127.0.0.1]:{}"])
def test_inner_proxy_of_an_account_is_refused(url: str) -> None:
    with listening() as inner:
        account = proxy_of_account(url.format(inner.port))
        with pytest.raises(NetworkRefused, match="a loopback address"):
            policy().for_account(account).connect("10.1.2.3", 443, 30.0 * PATIENCE)
        with pytest.raises(InvalidRequest, match=r"^credAccount\.proxyUrl: .* a loopback address"):
            check_named(policy(), {"credAccount.proxyUrl": account.fields["proxyUrl"]})
    assert inner.connections == []


def test_proxy_of_an_account_gets_only_checked_addresses() -> None:
    """It may be one inside the operator's network, and it would resolve a name anew."""
    with upload_server(consent) as proxy:
        account = proxy_of_account(f"http://127.0.0.1:{proxy.port}")
        guarded = policy(outbound_allow="127.0.0.1").for_account(account)

        def resolve(host: str, port: int, **_: Any) -> Sequence[AddressInfo]:
            found = {"cloud.example.com": "10.1.2.3", "inner.example.com": "169.254.169.254"}.get(host, host)
            return socket.getaddrinfo(found, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

        guarded.connect("cloud.example.com", 443, 30.0 * PATIENCE, resolve=resolve).close()
        with pytest.raises(NetworkRefused, match="a metadata address"):
            guarded.connect("inner.example.com", 443, 30.0 * PATIENCE, resolve=resolve)
        with pytest.raises(TransientCloudError, match=r"'unknown\.example\.com' cannot be resolved here; .* address"):
            guarded.connect("unknown.example.com", 443, 30.0 * PATIENCE, resolve=resolve)
        # Without rules there is nothing to check.
        EVERYWHERE.for_account(account).connect("unknown.example.com", 443, 30.0 * PATIENCE, resolve=resolve).close()
    assert asked_for(proxy) == ["10.1.2.3:443", "unknown.example.com:443"]


def test_next_address_of_a_host_is_asked_for_if_the_proxy_cannot_reach_the_first() -> None:
    def only_second(upload: Upload) -> None:
        first = b"10.0.0.1:" in upload.head
        upload.answer(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" if first else b"HTTP/1.1 200 OK\r\n\r\n")

    with upload_server(only_second) as proxy:
        guarded = policy(outbound_allow="127.0.0.1").for_account(proxy_of_account(f"http://127.0.0.1:{proxy.port}"))

        def resolve(host: str, port: int, **_: Any) -> Sequence[AddressInfo]:
            found = ["10.0.0.1", "10.0.0.2"] if host == "two.example.com" else [host]
            return [info for each in found for info in socket.getaddrinfo(each, port, type=socket.SOCK_STREAM)]

        guarded.connect("two.example.com", 443, 30.0 * PATIENCE, resolve=resolve).close()
    assert asked_for(proxy) == ["10.0.0.1:443", "10.0.0.2:443"]


def test_proxy_of_an_account_is_reached_through_that_of_the_installation() -> None:
    account = proxy_of_account("http://10.9.8.7:8080")
    with upload_server(consent) as proxy:
        made = OutboundPolicy.of(Settings(http_proxy=f"http://127.0.0.1:{proxy.port}")).for_account(account)
        # The proxy of the installation ends the connection after its consent.
        with pytest.raises(TransientCloudError, match=r"the proxy 10\.9\.8\.7:8080 cannot be used"):
            made.connect("cloud.invalid", 443, 30.0 * PATIENCE)
    assert asked_for(proxy) == ["10.9.8.7:8080"]


def test_account_decides_which_of_its_hosts_need_its_proxy() -> None:
    with upload_server(consent) as proxy, upload_server(consent) as ours:
        settings = Settings(http_proxy=f"http://127.0.0.1:{ours.port}", no_proxy="127.0.0.1")
        account = proxy_of_account(f"http://127.0.0.1:{proxy.port}", noProxy="glance.invalid")
        made = OutboundPolicy.of(settings).for_account(account)
        for host in ("keystone.invalid", "glance.invalid"):
            made.connect(host, 443, 30.0 * PATIENCE).close()
        # Another account does not inherit it.
        made.for_account(Account("openstack", {}, {})).connect("keystone.invalid", 443, 30.0 * PATIENCE).close()
    assert asked_for(proxy) == ["keystone.invalid:443"]
    assert asked_for(ours) == ["glance.invalid:443", "keystone.invalid:443"]
