"""Proxies that connections to clouds go through, as a setting or an account names them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from publisher.core.service_urls import check_split

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_EXAMPLE = "http://proxy.example.com:3128"


@dataclass(frozen=True, slots=True)
class DirectHosts:
    """Hosts that are reached without the proxy."""

    everything: bool = False
    domains: tuple[str, ...] = ()
    """Each stands for the host of that name and for all hosts below it. In lower case."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Each stands for hosts that are named by an address. No name is resolved for them."""

    @classmethod
    def parse(cls, text: str) -> DirectHosts:
        """Parse hosts, domains and networks with commas or blanks between. `*` stands for all. Raises `ValueError`."""
        everything, domains, networks = False, list[str](), list[IPv4Network | IPv6Network]()
        for each in text.replace(",", " ").split():
            if each == "*":
                everything = True
                continue
            try:
                networks.append(ip_network(each[1:-1] if each[0] == "[" and each[-1] == "]" else each))
            except ValueError:
                domain = each.removeprefix("*").removeprefix(".").removesuffix(".").lower()
                if not _NAME.fullmatch(domain) or domain.replace(".", "").isdecimal():
                    raise ValueError(
                        "give hosts, domains such as .example.com, and networks such as 10.0.0.0/8 without host bits,"
                        " with commas between, and without ports"
                    ) from None
                domains.append(domain)
        return cls(everything, tuple(domains), tuple(networks))

    def __contains__(self, host: object) -> bool:
        if self.everything:
            return True
        name = str(host).strip("[]").removesuffix(".").lower()
        try:
            address = ip_address(name)
        except ValueError:
            return any(name == domain or name.endswith(f".{domain}") for domain in self.domains)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that makes connections for us when it is asked with CONNECT (RFC 9110, section 9.3.6)."""

    host: str
    port: int
    login: str = ""
    password: str = field(default="", repr=False)
    direct: DirectHosts = DirectHosts()
    of_account: bool = False
    """Whether an account names it. Otherwise the installation's settings do."""

    @classmethod
    def of_setting(cls, url: str, no_proxy: str = "") -> Proxy | None:
        """Read the settings; None if they name no proxy. Raises `ValueError`, without any part of a login."""
        if not url:
            return None
        host, port, login, password = _parts(url)
        return cls(host, port, login, password, DirectHosts.parse(no_proxy))

    @classmethod
    def of_elements(cls, url: str, login: str = "", password: str = "", no_proxy: str = "") -> Proxy:
        """Read the elements of an account. Raises `ValueError`."""
        host, port, *_ = _parts(url)
        return cls(host, port, login, password, DirectHosts.parse(no_proxy), of_account=True)

    @property
    def where(self) -> str:
        """Host and port, for people to read."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def serves(self, host: str) -> bool:
        """Return whether connections to a host go through it."""
        return host not in self.direct


def check_proxy_url(url: str) -> None:
    """Check the URL of a proxy, which may have a login and a password. Raises `ValueError`."""
    _parts(url)


def _parts(url: str) -> tuple[str, int, str, str]:
    """Return host, port, login and password. Raises `ValueError`, which shows at most the scheme."""
    if url.lower().startswith("https://"):
        raise ValueError(f"the connection to the proxy itself cannot use TLS; write {_EXAMPLE}")
    found = check_split(url, ("http",), _EXAMPLE)
    parts = urlsplit(url)
    if not parts.hostname or parts.port is None:
        raise ValueError(f"it needs a host and a port; write {_EXAMPLE}")
    if found.path not in ("", "/") or "?" in url:
        raise ValueError(f"nothing may follow the port; write {_EXAMPLE}")
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in login:
        raise ValueError("the login of a proxy cannot contain a colon")  # RFC 7617, section 2
    return parts.hostname, parts.port, login, password
