"""An early look at the addresses that a request names, so that its caller hears at once what a worker would refuse.

It decides nothing: what cannot be resolved just now is let pass, and the worker looks at the address it connects to.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from urllib.parse import urlsplit

from publisher.core.errors import InvalidRequest, NetworkRefused
from publisher.outbound.policy import AddressInfo, OutboundPolicy, address_of

_LOOK_SECONDS = 0.5
"""For all names of a request together."""
_LOOKUPS_MAX = 16
"""Names that are looked up at a time: a resolver that does not answer must not gather ever more threads."""

_lookups = threading.BoundedSemaphore(_LOOKUPS_MAX)


def check_named(policy: OutboundPolicy, named: Mapping[str, object]) -> None:
    """`named` are URLs by the field that holds each; None and what is no URL is left to others.

    Raises `InvalidRequest` that names the field. Takes no time where the policy refuses nothing, else half a second at
    most.
    """
    if policy.open:
        return
    hosts = {field: host for field, url in named.items() if (host := _host(url))}
    lookups = {host: _look_up(host) for host in dict.fromkeys(hosts.values())}
    deadline = time.monotonic() + _LOOK_SECONDS
    for field, host in hosts.items():
        try:
            found = lookups[host].result(max(0.0, deadline - time.monotonic()))
            policy.permitted(host, found, address_of)
        except (OSError, UnicodeError):  # a time-out among them
            continue
        except NetworkRefused as error:
            raise InvalidRequest(str(error), field=field) from None


def _host(url: object) -> str | None:
    try:
        return urlsplit(str(url)).hostname if url else None
    except ValueError:
        return None


def _look_up(host: str) -> Future[Sequence[AddressInfo]]:
    """Its addresses: at once where it is one, in whatever notation, else from a thread; perhaps never."""
    outcome: Future[Sequence[AddressInfo]] = Future()
    try:
        outcome.set_result(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except (OSError, UnicodeError):
        if _lookups.acquire(blocking=False):
            threading.Thread(target=_resolve, args=(host, outcome), name="lookup", daemon=True).start()
    return outcome


def _resolve(host: str, outcome: Future[Sequence[AddressInfo]]) -> None:
    try:
        outcome.set_result(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except Exception as error:
        outcome.set_exception(error)
    finally:
        _lookups.release()
