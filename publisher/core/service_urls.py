"""Check the texts of settings at start: URLs, networks, delays.

Each function raises `ValueError` with a reason that continues the variable's name and a colon. The drivers' own errors
quote a URL with its password, or drivers accept a wrong URL: an unquoted `@` or `/` in a password changes the host. No
message here shows any part of what follows the scheme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit

BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "amqp", "amqps", "pyamqp")
DATABASE_SCHEMES = ("sqlite", "postgresql")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::([0-9]*))?")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT_MAX = 65535
_ENCODE = "in a login or password write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, ; as %3B, [ as %5B"
_MEANT = {"postgres": "postgresql", "mysql": "postgresql", "mariadb": "postgresql", "unix": "redis+socket"}
"""Maps schemes that other programs use to the ones to use here."""


@dataclass(frozen=True, slots=True)
class UrlParts:
    scheme: str
    host: str
    path: str


def check_broker_url(url: str) -> None:
    """Check the URL of a broker. Raises `ValueError`."""
    example = "redis://HOST:6379/0 or amqp://LOGIN:PASSWORD@HOST:5672//"
    parts = check_split(url, BROKER_SCHEMES, example)
    if ";" in url:
        # kombu treats what follows as another broker.
        raise ValueError(f"it contains ';'; name one broker, and {_ENCODE}")
    if "ssl_" in url.partition("?")[2]:
        raise ValueError(
            "remove the ssl_… parameters; PUBLISHER_BROKER_CA_FILE and PUBLISHER_BROKER_TLS_VERIFY decide how"
            " the broker's certificate is checked"
        )
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ValueError("what follows the host must be the number of a Redis database, as in /0")
    if parts.scheme == "redis+socket" and (parts.host or len(parts.path) < 2):
        raise ValueError("write the path of the socket as in redis+socket:///run/redis.sock")


def check_database_url(url: str) -> None:
    """Check the URL of a database. Raises `ValueError`."""
    example = "postgresql://LOGIN:PASSWORD@HOST:5432/DATABASE or sqlite:////var/lib/publisher/publisher.db"
    parts = check_split(url, DATABASE_SCHEMES, example)
    if parts.scheme.startswith("sqlite") and parts.host:
        raise ValueError("SQLite has no host; write an absolute path after sqlite:// and two slashes")


def check_ca_file(file: Path) -> None:
    """Check that the file holds certificates. Raises `ValueError`."""
    import ssl  # needed by few settings, and slow to import

    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise ValueError(f"{file} contains no valid certificate; use the PEM format") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def check_http_url(url: str) -> None:
    """Check the URL of one of our own servers, as callers see it. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ValueError("write it as in https://publish.example.com")


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Parse networks separated by commas. Raises `ValueError`."""
    try:
        return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())
    except ValueError:
        raise ValueError("give networks such as 10.0.0.0/8, without host bits and with commas between") from None


def parse_delays(text: str) -> list[float]:
    """Parse delays in seconds, separated by commas. Raises `ValueError`."""
    try:
        found = [float(each) for each in text.split(",") if each.strip()]
    except ValueError:
        found = [-1.0]
    if not all(0 <= each < float("inf") for each in found):
        raise ValueError("give seconds, with commas between")
    return found


def check_split(url: str, schemes: tuple[str, ...], example: str) -> UrlParts:
    """Check the URL and split it. Raises `ValueError`, which shows at most the scheme."""
    if any(each.isspace() or not each.isprintable() for each in url):
        raise ValueError("it contains a space, a line break or a control character; remove it")
    found = _SCHEME.fullmatch(url)
    if not found:
        raise ValueError(f"it does not begin with a scheme; write {example}")
    scheme, rest = found[1].lower(), found[2]
    base = scheme if scheme in schemes else scheme.partition("+")[0]
    if base not in schemes:
        hint = f" (did you mean {_MEANT[base]}://?)" if base in _MEANT else ""
        raise ValueError(f"the scheme is none of {', '.join(schemes)}{hint}; write {example}")
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    login, _, hosts = authority.rpartition("@")
    local = not authority
    if "@" in login or (not local and "@" in path) or "#" in url or _BROKEN_ESCAPE.search(login) or "[" in login:
        raise ValueError(f"the login or the password contains a character that must be encoded; {_ENCODE}")
    if "," in hosts or ";" in hosts:
        raise ValueError("it names several hosts; name one, such as a proxy or an address that follows the primary")
    host = _HOST.fullmatch(hosts)
    if not host or not _is_port(host[2]):
        raise ValueError(f"the port is not a number from 1 to {_PORT_MAX}, or a password is not encoded; {_ENCODE}")
    return UrlParts(scheme, host[1], path.partition("?")[0])


def _is_port(text: str | None) -> bool:
    return not text or (len(text) <= 5 and 0 < int(text) <= _PORT_MAX)
