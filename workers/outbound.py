"""Connections to what callers name, for the clients that make their own: requests, under the OpenStack clients, and
aiohttp. Each address is looked at as the connection to it is made (`publisher.core.network`), after redirects, too.

Proxies that the environment names are not used: behind one, nobody here would see the address that is connected to.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import requests
import requests.utils
from aiohttp.abc import ResolveResult
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from publisher.core.network import AddressInfo, OutboundPolicy, address_of


def trust(ca_bundle: str | None = None) -> ssl.SSLContext:
    """The authorities in a bundle (PEM) and no others; without one those of requests, or of REQUESTS_CA_BUNDLE."""
    if ca_bundle:
        return ssl.create_default_context(cadata=ca_bundle)
    trusted = Path(os.environ.get("REQUESTS_CA_BUNDLE") or requests.utils.DEFAULT_CA_BUNDLE_PATH)
    if trusted.is_dir():
        return ssl.create_default_context(capath=str(trusted))
    return ssl.create_default_context(cafile=str(trusted))


# requests -------------------------------------------------------------------------------------------------------------


def requests_session(policy: OutboundPolicy, tls: ssl.SSLContext) -> requests.Session:
    """Servers are verified against `tls`, whatever a single call says."""
    session = requests.Session()
    # No proxy, no .netrc, no other authorities.
    session.trust_env = False
    adapter = _Adapter(policy, tls)
    for scheme in list(session.adapters):
        session.mount(scheme, adapter)
    return session


class _Adapter(HTTPAdapter):
    def __init__(self, policy: OutboundPolicy, tls: ssl.SSLContext) -> None:
        self._policy = policy
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._policy)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._tls}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context says it all."""


def _pools(policy: OutboundPolicy) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _checked(self, self._dns_host, policy)

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _checked(self, self._dns_host, policy)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _checked(connection: HTTPConnection, host: str, policy: OutboundPolicy) -> socket.socket:
    """What urllib3 itself does here, but for the choice of the address."""
    try:
        return policy.connect(host, connection.port, connection.timeout)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"Connection to {host} timed out") from error
    except OSError as error:
        raise NewConnectionError(connection, f"Failed to establish a new connection: {error}") from error


# aiohttp --------------------------------------------------------------------------------------------------------------


def aiohttp_connector(policy: OutboundPolicy, tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """To be made, and used, in a running loop. For a session without `trust_env`."""

    def made(info: AddressInfo) -> socket.socket:
        # Addresses that are named as such are resolved by nobody.
        policy.permitted(address_of(info), [info], address_of)
        return socket.socket(*info[:3])

    return aiohttp.TCPConnector(resolver=_Resolver(policy), socket_factory=made, ssl=tls)


class _Resolver(aiohttp.ThreadedResolver):
    """Finds the addresses that are allowed."""

    def __init__(self, policy: OutboundPolicy) -> None:
        super().__init__(asyncio.get_running_loop())
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        return self._policy.permitted(host, found, lambda each: each["host"])
