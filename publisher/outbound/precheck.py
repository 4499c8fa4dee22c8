"""An early check of the addresses in a request, so that its caller learns at once what a worker would refuse.

It is not decisive: names that cannot be resolved now pass, and the worker checks the address when it connects.
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
"""Time limit for all names of a request together."""
_LOOKUPS_MAX = 16
"""Maximum number of concurrent lookups: a resolver that does not answer must not accumulate threads."""

_lookups = threading.BoundedSemaphore(_LOOKUPS_MAX)


def check_named(policy: OutboundPolicy, named: Mapping[str, object]) -> None:
    """Check the hosts of `named`: URLs by the field that contains them. Ignores None and what is no URL.

    Raises `InvalidRequest` with the name of the field. Takes no time if the policy refuses nothing, and otherwise at
    most half a second.
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
    """Resolve a host in a thread, or at once if it is an address in any notation. The result may never arrive."""
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
