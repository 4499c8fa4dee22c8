"""Checks the host that a request names. A foreign page can make a browser send any name (DNS rebinding)."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from publisher.core.settings import Settings

_ALWAYS = ("localhost", "*.localhost")
_KEPT, _KEPT_LENGTH_MAX = 1024, 255
"""Number of verdicts that are kept, and the length of the longest `Host` whose verdict is: callers send anything."""


def is_allowed(host_header: str, settings: Settings, *, local_address: str) -> bool:
    """Return whether the `Host` of a request is one of ours.

    Ours are `PUBLISHER_ALLOWED_HOSTS`, the host of `PUBLISHER_PUBLIC_URL`, loopback, this machine's name, and
    `local_address`: the address that received the connection.
    """
    given = host_header, local_address, socket.gethostname()
    ours = settings.public_url, settings.intake_host, settings.allowed_hosts
    check = _is_allowed if len(host_header) <= _KEPT_LENGTH_MAX else _is_allowed.__wrapped__
    return check(*given, *ours)


@lru_cache(_KEPT)
def _is_allowed(
    host_header: str, local_address: str, machine: str, public_url: str, intake_host: str, allowed_hosts: str
) -> bool:
    host = _host_of(f"//{host_header}")
    if not host:
        return False
    own = [_host_of(public_url), machine.lower(), intake_host.lower()]
    names = [*_ALWAYS, *own, *(each.strip().lower() for each in allowed_hosts.split(","))]
    if host == local_address or any(fnmatch.fnmatchcase(host, name) for name in names if name):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""
