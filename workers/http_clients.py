"""HTTP clients for addresses that callers name: requests, for the OpenStack clients, and aiohttp.

Each connection is made by `publisher.outbound.policy`, including those after redirects: it checks the address, or asks
a proxy for a connection. So a client sees no difference between the two. Proxies that the environment names are not
used: they would be used without these checks.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import requests.utils
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from publisher.core.errors import PermanentCloudError
from publisher.outbound.policy import AddressInfo, OutboundPolicy, address_of
from workers.socket_reader import SocketReader

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout, TCPConnector
    from aiohttp.abc import ResolveResult
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.tracing import Trace

ANSWER_BYTES_MAX = 4 << 20
"""Longer than any answer to a call, except an image."""
_CALL_SECONDS = 60.0
"""Time-out of a call that names none."""
_CONTEXTS_MAX = 32
"""Number of TLS contexts that are kept. Reading a bundle of authorities takes 20 ms of CPU."""


def trust(ca_bundle: str | None = None) -> ssl.SSLContext:
    """Return a TLS context that trusts only the authorities of a bundle (PEM).

    Without a bundle, it trusts those of REQUESTS_CA_BUNDLE, or else those of requests. Callers share the context and
    must not change it. A file or directory that has changed is read again.
    """
    if ca_bundle:
        return _trust_bundle(ca_bundle)
    trusted = Path(os.environ.get("REQUESTS_CA_BUNDLE") or requests.utils.DEFAULT_CA_BUNDLE_PATH)
    status = trusted.stat()
    return _trust_path(trusted, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))


@lru_cache(_CONTEXTS_MAX)
def _trust_bundle(ca_bundle: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca_bundle)


@lru_cache(_CONTEXTS_MAX)
def _trust_path(trusted: Path, version: tuple[int, ...]) -> ssl.SSLContext:
    """Trust the authorities of a file or a directory. `version` changes whenever they are changed."""
    if trusted.is_dir():
        return ssl.create_default_context(capath=str(trusted))
    return ssl.create_default_context(cafile=str(trusted))


# requests -------------------------------------------------------------------------------------------------------------


def requests_session(
    policy: OutboundPolicy,
    tls: ssl.SSLContext,
    *,
    connect_seconds: float = 10.0,
    check: Callable[[], None] = lambda: None,
) -> requests.Session:
    """Return a session for one thread at a time. It verifies servers against `tls`, whatever a single call says.

    The time-out of a call covers its whole answer, which may have `ANSWER_BYTES_MAX` bytes, and is read as UTF-8
    without decompression. If it is a pair, the first number limits the connection and the second one the call. `check`
    is called before each request and, during the wait for its answer, several times a second; it stops the call by
    raising.
    """
    session = requests.Session()
    # Use no proxy, no .netrc and no other authorities.
    session.trust_env = False
    session.headers["Accept-Encoding"] = "identity"
    adapter = _Adapter(policy, tls, connect_seconds, check)
    for scheme in list(session.adapters):
        session.mount(scheme, adapter)
    return session


class _Adapter(HTTPAdapter):
    def __init__(
        self, policy: OutboundPolicy, tls: ssl.SSLContext, connect_seconds: float, check: Callable[[], None]
    ) -> None:
        self._policy = policy
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._check = check
        self._ends = 0.0
        super().__init__()

    def send(self, request: Any, stream: bool = False, timeout: Any = None, *rest: Any, **more: Any) -> Any:
        self._check()
        connect_seconds, seconds = _limits(timeout, self._connect_seconds)
        self._ends = time.monotonic() + seconds
        response = super().send(request, True, (connect_seconds, seconds), *rest, **more)
        try:
            body = response.raw.read(ANSWER_BYTES_MAX + 1, decode_content=False)
        except HTTPError as error:
            raise requests.exceptions.ConnectionError(error, request=request) from error
        finally:
            response.raw.close()
        if len(body) > ANSWER_BYTES_MAX:
            raise PermanentCloudError(f"{_host(request.url)} answers with more than {ANSWER_BYTES_MAX >> 20} MiB")
        # Do not trust the server's encodings: decoding could cost any amount of time and memory.
        response.raw, response.encoding = io.BytesIO(body), "utf-8"
        return response

    def _look(self) -> None:
        self._check()
        if time.monotonic() > self._ends:
            raise TimeoutError("the answer timed out")

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._policy, self._look)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._tls}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context holds all that is needed."""


def _pools(policy: OutboundPolicy, look: Callable[[], None]) -> dict[str, type[HTTPConnectionPool]]:
    class CheckedResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
            read: Any = SocketReader(sock, look)
            super().__init__(read, *arguments, **options)

    class Plain(HTTPConnection):
        response_class = CheckedResponse

        def _new_conn(self) -> socket.socket:
            return _checked(self, self._dns_host, policy)

    class Encrypted(HTTPSConnection):
        response_class = CheckedResponse

        def _new_conn(self) -> socket.socket:
            return _checked(self, self._dns_host, policy)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _limits(timeout: Any, connect_seconds: float) -> tuple[float, float]:
    """Return how long the connection and the whole call may take.

    `timeout` is that of a call to requests: a number, or a pair of numbers for connecting and reading, as the clients
    of Azure and Google give it. None stands for the default.
    """
    connect, read = timeout if isinstance(timeout, tuple) else (None, timeout)
    seconds = float(read or _CALL_SECONDS)
    return min(connect_seconds, float(connect or connect_seconds), seconds), seconds


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _checked(connection: HTTPConnection, host: str, policy: OutboundPolicy) -> socket.socket:
    """Connect as urllib3 does here, except that `policy` chooses the address or the proxy."""
    try:
        return policy.connect(host, connection.port, connection.timeout)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"Connection to {host} timed out") from error
    except OSError as error:
        raise NewConnectionError(connection, f"Failed to establish a new connection: {error}") from error


# aiohttp --------------------------------------------------------------------------------------------------------------


def aiohttp_connector(policy: OutboundPolicy, tls: ssl.SSLContext) -> TCPConnector:
    """Return a connector for a session without `trust_env`. Create and use it in a running loop."""
    # Imported here, and by those who call this: it takes 0.1 s, and most workers start without using it.
    import aiohttp

    loop = asyncio.get_running_loop()

    class Resolver(aiohttp.ThreadedResolver):
        """A resolver that returns only the allowed addresses."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await super().resolve(host, port, family)
            return policy.permitted(host, found, lambda each: each["host"])

    def made(info: AddressInfo) -> socket.socket:
        # aiohttp does not resolve numeric addresses, so they are checked here.
        policy.permitted(address_of(info), [info], address_of)
        return socket.socket(*info[:3])

    class Connector(aiohttp.TCPConnector):
        """A connector that lets `policy` make the connections that need a proxy.

        aiohttp's own support for proxies has no exceptions, and it sends plain HTTP requests to the proxy instead of
        asking it for a connection. It could not tell the proxy's answers from the server's.
        """

        async def _create_connection(
            self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
        ) -> ResponseHandler:
            host = (req.url.raw_host or "").rstrip(".")
            if not policy.through_proxy(host):
                return await super()._create_connection(req, traces, timeout)
            seconds = timeout.sock_connect or timeout.total or _CALL_SECONDS
            sock = await _connected_aside(loop, lambda: policy.connect(host, req.url.port or 0, seconds))
            context = self._get_ssl_context(req)
            _, protocol = await self._wrap_existing_connection(
                self._factory,
                sock=sock,
                ssl=context,
                server_hostname=(req.server_hostname or host) if context else None,
                req=req,
                timeout=timeout,
            )
            return protocol

    return Connector(resolver=Resolver(loop), socket_factory=made, ssl=tls)


async def _connected_aside(loop: asyncio.AbstractEventLoop, connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect in a thread. A connection for which nobody waits any more is closed once it is made."""
    connecting = loop.run_in_executor(None, connect)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close)
        raise


def _close(connecting: asyncio.Future[socket.socket]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
