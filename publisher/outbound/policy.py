"""Decides which of the addresses that callers name this installation connects to.

A name proves nothing: it may resolve to any address, and to another one a moment later. So the address itself is
checked when the connection is made, and the name is not resolved again in between.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from publisher.core.errors import ConfigurationError, InvalidRequest, NetworkRefused
from publisher.core.service_urls import parse_networks
from publisher.core.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""An item that `socket.getaddrinfo` returns."""
Found = TypeVar("Found")

_NAT64 = IPv6Network("64:ff9b::/96")
_INNER: dict[str, tuple[Network, ...]] = {
    kind: tuple(ip_network(each) for each in networks.split())
    for kind, networks in {
        # Amazon, Google, OpenStack and most others; Amazon and Google over IPv6; Alibaba; Oracle; Azure.
        "a metadata address": "169.254.169.254 169.254.170.2 169.254.170.23 fd00:ec2::254 fd00:ec2::23 fd20:ce::254"
        " 100.100.100.200 192.0.0.192 168.63.129.16",
        "a loopback address": "127.0.0.0/8 ::1",
        "a link-local address": "169.254.0.0/16 fe80::/10",
        "an unspecified address": "0.0.0.0/8 ::",
        "a multicast address": "224.0.0.0/4 ff00::/8",
        "a broadcast address": "255.255.255.255",
        "a reserved address": "192.0.0.0/24 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 2001:db8::/32",
    }.items()
}
"""Addresses that callers have no reason to use. Private networks (RFC 1918, unique local) are not: clouds use them."""
_TRIED_MAX = 5
"""Maximum number of addresses to try for one host."""
_IPV6_IN_USE = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"))
"""Global unicast and unique local addresses. All others are reserved."""


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """Rules for addresses. Those in `deny` are refused, others in `allow` are not, and inner ones are if `guarded`."""

    guarded: bool = False
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the policy from the settings. Raises `ConfigurationError` with the name of an invalid setting."""
        return cls(
            guarded=settings.production,
            allow=_networks("PUBLISHER_OUTBOUND_ALLOW", settings.outbound_allow),
            deny=_networks("PUBLISHER_OUTBOUND_DENY", settings.outbound_deny),
        )

    @property
    def open(self) -> bool:
        """Whether the policy refuses nothing."""
        return not self.guarded and not self.deny

    def refusal(self, address: str) -> str | None:
        """Return the reason to refuse an address, for people; None if connections to it are allowed."""
        given = ip_address(address)
        reached = tuple(_reached(given))
        if any(_within(each, self.deny) for each in (given, *reached)):
            return "an address that PUBLISHER_OUTBOUND_DENY denies"
        if not self.guarded or _within(given, self.allow):
            return None
        kinds = (_kind(each) for each in reached if not _within(each, self.allow))
        return next((kind for kind in kinds if kind), None)

    def permitted(self, host: str, found: Sequence[Found], address_of: Callable[[Found], str]) -> list[Found]:
        """Return the allowed ones of a host's addresses. Raises `NetworkRefused` if all were refused."""
        refusals = {address_of(each): self.refusal(address_of(each)) for each in found}
        permitted = [each for each in found if refusals[address_of(each)] is None]
        kinds = sorted({kind for kind in refusals.values() if kind})
        if kinds and not permitted:
            raise NetworkRefused(_words(host, kinds[0]))
        return permitted

    def connect(
        self,
        host: str,
        port: int,
        timeout_seconds: float | None,
        *,
        resolve: Callable[..., Sequence[AddressInfo]] = socket.getaddrinfo,
    ) -> socket.socket:
        """Open a TCP connection to one of the host's allowed addresses.

        Resolves the name once. The time-out covers all addresses together, of which a few are tried. Raises
        `NetworkRefused`, before anything is sent, and `OSError` if no address answers.
        """
        host = host.strip("[]")
        try:
            found = resolve(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        last: OSError = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        tried = self.permitted(host, found, address_of)[:_TRIED_MAX]
        ends = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for count, info in enumerate(tried):
            # Each address gets its share of the remaining time, so that a silent one leaves time for the others.
            share = None if ends is None else max(ends - time.monotonic(), 0.001) / (len(tried) - count)
            try:
                made = _connected(info, share)
            except OSError as error:
                last = error
            else:
                made.settimeout(timeout_seconds)
                return made
        raise last


EVERYWHERE = OutboundPolicy()
"""The policy that refuses nothing."""


def address_of(info: AddressInfo) -> str:
    return str(info[4][0])


def _connected(info: AddressInfo, timeout_seconds: float | None) -> socket.socket:
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(timeout_seconds)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _networks(variable: str, text: str) -> tuple[Network, ...]:
    try:
        return parse_networks(text)
    except ValueError as error:
        raise ConfigurationError(f"{variable}: {error}") from None


def _reached(address: Address) -> Iterator[Address]:
    """Yield the addresses at which a connection to this address ends, or may end."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        yield from _reached(address.ipv4_mapped)
        return
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
        return
    yield address
    if address.is_unspecified:  # the kernel takes this for the local machine
        yield ip_address("127.0.0.1" if address.version == 4 else "::1")
    if isinstance(address, IPv6Address):
        if address.sixtofour:
            yield address.sixtofour
        yield from address.teredo or ()


def _kind(address: Address) -> str | None:
    for kind, networks in _INNER.items():
        if _within(address, networks):
            return kind
    if isinstance(address, IPv6Address) and not _within(address, _IPV6_IN_USE):
        return "a reserved address"
    return None


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _words(host: str, kind: str) -> str:
    try:
        ip_address(host)
        verb = "is"
    except ValueError:
        verb = "resolves to"
    advice = "" if "_DENY" in kind else "; its administrator can allow it by PUBLISHER_OUTBOUND_ALLOW"
    return f"'{host}' {verb} {kind}, which this installation does not connect to{advice}"


# The early check ---------------------------------------------------------------------------------

# It tells callers at once what a worker would refuse. It is not decisive: names that cannot be resolved now pass, and
# the worker checks the address when it connects.

_LOOK_SECONDS = 0.5
"""Time limit for all names of a request together."""
_LOOKUPS_MAX = 16
"""Maximum number of concurrent lookups: a resolver that does not answer must not accumulate threads."""
_KEPT_SECONDS = 30.0
_KEPT_MAX = 1000

_lookups = threading.BoundedSemaphore(_LOOKUPS_MAX)
_kept: dict[str, tuple[Future[Sequence[AddressInfo]], float]] = {}
"""The results of the latest lookups by host, and until when they are used."""


def check_named(
    policy: OutboundPolicy, named: Mapping[str, object], *, before_waiting: Callable[[], None] = lambda: None
) -> None:
    """Check the hosts of `named`: URLs by the field that contains them. Ignores None and what is no URL.

    Raises `InvalidRequest` with the name of the field. Takes no time if the policy refuses nothing or the hosts are
    known, and otherwise at most half a second; `before_waiting` is called then.
    """
    if policy.open:
        return
    hosts = {field: host for field, url in named.items() if (host := _host(url))}
    lookups = {host: _look_up(host) for host in dict.fromkeys(hosts.values())}
    if not all(each.done() for each in lookups.values()):
        before_waiting()
    deadline = time.monotonic() + _LOOK_SECONDS
    for field, host in hosts.items():
        try:
            found = lookups[host].result(max(0.0, deadline - time.monotonic()))
            policy.permitted(host, found, address_of)
        except (OSError, UnicodeError):  # includes time-outs
            continue
        except NetworkRefused as error:
            raise InvalidRequest(str(error), field=field) from None


def _host(url: object) -> str | None:
    try:
        return urlsplit(str(url)).hostname if url else None
    except ValueError:
        return None


def _look_up(host: str) -> Future[Sequence[AddressInfo]]:
    """Resolve a host in a thread, or at once if it is an address in any notation. The result may never arrive.

    Results are kept for a while. This check only makes errors come early: each connection checks its address itself.
    """
    outcome: Future[Sequence[AddressInfo]] = Future()
    try:
        outcome.set_result(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except (OSError, UnicodeError):
        now = time.monotonic()
        kept, until = _kept.get(host, (outcome, 0.0))
        if now < until:
            return kept
        if _lookups.acquire(blocking=False):
            if len(_kept) >= _KEPT_MAX:
                _kept.clear()
            _kept[host] = outcome, now + _KEPT_SECONDS
            threading.Thread(target=_resolve, args=(host, outcome), name="lookup", daemon=True).start()
    return outcome


def _resolve(host: str, outcome: Future[Sequence[AddressInfo]]) -> None:
    try:
        outcome.set_result(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except Exception as error:
        outcome.set_exception(error)
    finally:
        _lookups.release()
