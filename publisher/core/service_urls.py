"""Checks the URLs of the database and the broker at start, before a driver reads them.

The drivers' own errors quote the URL with its password, or drivers accept a wrong URL: an unquoted `@` or `/` in a
password changes the host. No message here shows any part of what follows the scheme.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

from publisher.core.errors import ConfigurationError

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
class _Parts:
    scheme: str
    host: str
    path: str


def check_broker_url(name: str, url: str) -> None:
    """Check the value of the variable `name`. Raises `ConfigurationError`."""
    example = "redis://HOST:6379/0 or amqp://LOGIN:PASSWORD@HOST:5672//"
    parts = _split(name, url, BROKER_SCHEMES, example)
    if ";" in url:
        # kombu treats what follows as another broker.
        raise ConfigurationError(f"{name}: it contains ';'; name one broker, and {_ENCODE}")
    if "ssl_" in url.partition("?")[2]:
        raise ConfigurationError(
            f"{name}: remove the ssl_… parameters; PUBLISHER_BROKER_CA_FILE and PUBLISHER_BROKER_TLS_VERIFY decide how"
            " the broker's certificate is checked"
        )
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ConfigurationError(f"{name}: what follows the host must be the number of a Redis database, as in /0")
    if parts.scheme == "redis+socket" and (parts.host or len(parts.path) < 2):
        raise ConfigurationError(f"{name}: write the path of the socket as in redis+socket:///run/redis.sock")


def check_database_url(name: str, url: str) -> None:
    """Check the value of the variable `name`. Raises `ConfigurationError`."""
    example = "postgresql://LOGIN:PASSWORD@HOST:5432/DATABASE or sqlite:////var/lib/publisher/publisher.db"
    parts = _split(name, url, DATABASE_SCHEMES, example)
    if parts.scheme.startswith("sqlite") and parts.host:
        raise ConfigurationError(f"{name}: SQLite has no host; write an absolute path after sqlite:// and two slashes")


def check_ca_file(name: str, file: str) -> None:
    """Check the value of the variable `name`. Raises `ConfigurationError`."""
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise ConfigurationError(f"{name}: {file} holds no certificate that can be read; give PEM text") from None
    except OSError as error:
        raise ConfigurationError(f"{name}: {file} cannot be read: {error.strerror}") from None


def _split(name: str, url: str, schemes: tuple[str, ...], example: str) -> _Parts:
    """Split the URL. Raises `ConfigurationError`, which names the variable and shows at most the scheme."""
    if any(each.isspace() or not each.isprintable() for each in url):
        raise ConfigurationError(
            f"{name}: it contains a blank, a line break or a control character; write it in one line"
        )
    found = _SCHEME.fullmatch(url)
    if not found:
        raise ConfigurationError(f"{name}: it does not begin with a scheme; write {example}")
    scheme, rest = found[1].lower(), found[2]
    base = scheme if scheme in schemes else scheme.partition("+")[0]
    if base not in schemes:
        hint = f"; did you mean {_MEANT[base]}://?" if base in _MEANT else ""
        raise ConfigurationError(f"{name}: the scheme is none of {', '.join(schemes)}{hint} Write {example}")
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    login, _, hosts = authority.rpartition("@")
    local = not authority
    if "@" in login or (not local and "@" in path) or "#" in url or _BROKEN_ESCAPE.search(login) or "[" in login:
        raise ConfigurationError(
            f"{name}: the login or the password contains a character that must be encoded; {_ENCODE}"
        )
    if "," in hosts or ";" in hosts:
        raise ConfigurationError(
            f"{name}: it names several hosts; name one, such as a proxy, or an address that moves with the primary"
        )
    host = _HOST.fullmatch(hosts)
    if not host or not _is_port(host[2]):
        raise ConfigurationError(
            f"{name}: the port is not a number from 1 to {_PORT_MAX}, or a password is not encoded; {_ENCODE}"
        )
    return _Parts(scheme, host[1], path.partition("?")[0])


def _is_port(text: str | None) -> bool:
    return not text or (len(text) <= 5 and 0 < int(text) <= _PORT_MAX)
