"""Checks the host that a request names. A foreign page can make a browser send any name (DNS rebinding)."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
from urllib.parse import urlsplit

from publisher.core.settings import Settings

_ALWAYS = ("localhost", "*.localhost")


def is_allowed(host_header: str, settings: Settings, *, local_address: str) -> bool:
    """Return whether the `Host` of a request is one of ours.

    Ours are `PUBLISHER_ALLOWED_HOSTS`, the host of `PUBLISHER_PUBLIC_URL`, loopback, this machine's name, and
    `local_address`: the address that received the connection.
    """
    host = _host_of(f"//{host_header}")
    if not host:
        return False
    own = [_host_of(settings.public_url), socket.gethostname().lower(), settings.intake_host.lower()]
    names = [*_ALWAYS, *own, *(each.strip().lower() for each in settings.allowed_hosts.split(","))]
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
