"""The policy for outbound connections, alone and with connections over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from publisher.core.errors import ConfigurationError, NetworkRefused, PermanentCloudError, Reason
from publisher.core.settings import Settings
from publisher.outbound.policy import EVERYWHERE, AddressInfo, OutboundPolicy
from tests.patience import PATIENCE
from tests.servers.listening import listening


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
