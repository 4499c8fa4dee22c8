"""Decides which of the addresses that callers name this installation connects to, and connects to them.

A name proves nothing: it may resolve to any address, and to another one a moment later. So the address itself is
checked when the connection is made, and the name is not resolved again in between. Only the installation's own proxy
resolves names itself: it belongs to the operator, who decides what it connects to (docs/decisions/0024).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from publisher.core.errors import ConfigurationError, InvalidRequest, NetworkRefused, Reason, TransientCloudError
from publisher.core.proxies import Proxy
from publisher.core.service_urls import parse_networks
from publisher.core.settings import Settings
from publisher.core.ticket import Account
from publisher.outbound.tunnel import open_tunnel, unreachable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""An item that `socket.getaddrinfo` returns."""
Found = TypeVar("Found")
Resolve = Callable[..., Sequence[AddressInfo]]
Connect = Callable[[Found, float | None], socket.socket]
"""Connects to a target within so many seconds."""

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
    proxy: Proxy | None = None
    """The installation's own proxy, whose address is not checked."""
    account_proxy: Proxy | None = None
    """The proxy that an account names. It is connected to like any other host that a caller names."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the policy from the settings. Raises `ConfigurationError` with the name of an invalid setting."""
        return cls(
            guarded=settings.production,
            allow=_networks("PUBLISHER_OUTBOUND_ALLOW", settings.outbound_allow),
            deny=_networks("PUBLISHER_OUTBOUND_DENY", settings.outbound_deny),
            proxy=_proxy(settings),
        )

    def for_account(self, account: Account) -> Self:
        """Return the policy with the proxy of an account, if it names one. Raises `InvalidRequest`."""
        given, url = account.fields, account.fields.get("proxyUrl")
        if not url:
            return replace(self, account_proxy=None)
        login, password = str(given.get("proxyLogin") or ""), account.secrets.get("proxyPassword", "")
        try:
            proxy = Proxy.of_elements(str(url), login, password, str(given.get("noProxy") or ""))
        except ValueError as error:
            raise InvalidRequest(str(error), field="credAccount.proxyUrl") from None
        return replace(self, account_proxy=proxy)

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
        resolve: Resolve = socket.getaddrinfo,
    ) -> socket.socket:
        """Open a connection to a host: a TCP connection to one of its allowed addresses, or one through a proxy.

        Resolves the name once. The time-out covers all addresses together, of which a few are tried, and the answer of
        a proxy. Raises `NetworkRefused`, before anything is sent, `OSError` if no address answers, and the errors of
        `open_tunnel` if a proxy does not answer or refuses.
        """
        made = self._open(host.strip("[]"), port, timeout_seconds, resolve)
        made.settimeout(timeout_seconds)
        return made

    def through_proxy(self, host: str) -> bool:
        """Return whether connections to this host go through a proxy."""
        return self._proxy_of(host.strip("[]")) is not None

    def _proxy_of(self, host: str) -> Proxy | None:
        return next((each for each in (self.account_proxy, self.proxy) if each and each.serves(host)), None)

    def _open(self, host: str, port: int, seconds: float | None, resolve: Resolve) -> socket.socket:
        proxy = self._proxy_of(host)
        if proxy is None:
            return _first(self._addresses(host, port, resolve), seconds, _connected)
        if not proxy.of_account:
            # It resolves the name itself, so this finds only what can be found here.
            self.check_host(host, _LOOK_SECONDS)
            return _tunnel(proxy, host, port, seconds, EVERYWHERE, resolve)
        if self.open:
            targets = [host]
        else:
            # It may be anybody's, also one inside the operator's network. So it gets no name, but a checked address.
            try:
                targets = [address_of(each) for each in self._addresses(host, port, resolve)]
            except OSError:
                raise TransientCloudError(
                    f"'{host}' cannot be resolved here; through the proxy of an account, this installation connects"
                    " only to addresses that it can check: give the address instead of the name",
                    reason=Reason.CONNECTION,
                ) from None
        onward = replace(self, account_proxy=None)
        return _first(targets, seconds, lambda target, share: _tunnel(proxy, target, port, share, onward, resolve))

    def _addresses(self, host: str, port: int, resolve: Resolve) -> Sequence[AddressInfo]:
        """Return the addresses of a host to try. Raises `NetworkRefused`, and `OSError` if there are none."""
        try:
            found = resolve(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            found = ()
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.permitted(host, found, address_of)[:_TRIED_MAX]

    def check_host(self, host: str, seconds: float) -> None:
        """Check the addresses of a host as far as they can be found in this time. Raises `NetworkRefused`."""
        if self.open:
            return
        try:
            found = _look_up(host).result(max(0.0, seconds))
        except (OSError, UnicodeError):  # includes time-outs
            return
        self.permitted(host, found, address_of)


EVERYWHERE = OutboundPolicy()
"""The policy that refuses nothing."""


def address_of(info: AddressInfo) -> str:
    return str(info[4][0])


def _first(targets: Sequence[Found], seconds: float | None, connect: Connect[Found]) -> socket.socket:
    """Return the first connection that succeeds. Raises the error of the last one if none does."""
    ends = None if seconds is None else time.monotonic() + seconds
    for count, target in enumerate(targets):
        # Each one gets its share of the remaining time, so that a silent one leaves time for the others.
        share = None if ends is None else max(ends - time.monotonic(), 0.001) / (len(targets) - count)
        try:
            return connect(target, share)
        except (OSError, TransientCloudError):
            if count == len(targets) - 1:
                raise
    raise AssertionError("there is no target")


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


def _tunnel(
    proxy: Proxy, host: str, port: int, seconds: float | None, policy: OutboundPolicy, resolve: Resolve
) -> socket.socket:
    """Connect to a host through a proxy, which is connected to as `policy` says."""
    ends = None if seconds is None else time.monotonic() + seconds
    try:
        made = policy._open(proxy.host, proxy.port, seconds, resolve)
    except TimeoutError:
        raise unreachable(proxy, "it did not answer in time") from None
    except OSError as error:
        raise unreachable(proxy, error.strerror or type(error).__name__) from None
    try:
        open_tunnel(made, proxy, host, port, ends)
    except BaseException:
        made.close()
        raise
    return made


def _proxy(settings: Settings) -> Proxy | None:
    try:
        return Proxy.of_setting(settings.http_proxy, settings.no_proxy)
    except ValueError as error:
        raise ConfigurationError(f"PUBLISHER_HTTP_PROXY or PUBLISHER_NO_PROXY: {error}") from None


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
    lookups = [_look_up(host) for host in dict.fromkeys(hosts.values())]
    if not all(each.done() for each in lookups):
        before_waiting()
    deadline = time.monotonic() + _LOOK_SECONDS
    for field, host in hosts.items():
        try:
            policy.check_host(host, deadline - time.monotonic())
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
