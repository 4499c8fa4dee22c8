"""Ask a proxy for a connection to a host: CONNECT (RFC 9110, section 9.3.6), with a login if it has one (RFC 7617).

No message shows what the proxy says: a hostile one may repeat the password.
"""

from __future__ import annotations

import socket
import time
from base64 import b64encode
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from publisher.core.errors import PermanentCloudError, PublisherError, Reason, TransientCloudError
from publisher.core.proxies import Proxy

if TYPE_CHECKING:
    from h11 import Response

_HEAD_BYTES_MAX = 64 << 10
_PIECE_BYTES = 4096
_LOGIN_NEEDED = {401, 407}
"""The second is the right one (RFC 9110, section 15.5.8); tinyproxy answers a wrong login with the first."""
_TRANSIENT = {408, 425, 429}
_NO_PROXY_STATUS = {501, 505}
"""Statuses of 500 and above of a server that does not know CONNECT: it is no proxy."""
_SETTING = "PUBLISHER_HTTP_PROXY"


def open_tunnel(sock: socket.socket, proxy: Proxy, host: str, port: int, ends: float | None) -> None:
    """Turn a connection to a proxy into one to `host`: a name or an address, which the proxy connects to.

    `ends` is when the proxy must have answered, by the monotonic clock; None: never. Raises `PermanentCloudError` if
    the proxy refuses, `TransientCloudError` if it cannot connect at the moment or does not answer as a proxy, and
    `socket.gaierror` if the host is no name. The socket is then of no use any more.
    """
    target = f"{_written(host)}:{port}"
    try:
        answer = _answer(sock, proxy, target, ends)
    except TimeoutError:
        raise unreachable(proxy, "it did not answer in time") from None
    except OSError as error:
        raise unreachable(proxy, error.strerror or type(error).__name__) from None
    if not 200 <= answer.status_code < 300:
        raise _refusal(proxy, target, answer)


def unreachable(proxy: Proxy, why: str) -> TransientCloudError:
    """Return the error for a proxy that does not answer, or not as a proxy does."""
    return TransientCloudError(f"the proxy {proxy.where} cannot be used at the moment: {why}", reason=Reason.CONNECTION)


def _answer(sock: socket.socket, proxy: Proxy, target: str, ends: float | None) -> Response:
    """Send the request and return the head of the final answer. Raises `OSError` and `TransientCloudError`."""
    import h11  # needed only with a proxy

    headers = [("Host", target)]
    if proxy.login:
        login = b64encode(f"{proxy.login}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {login}"))
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
    request = wire.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b""
    wire.send(h11.EndOfMessage())
    sock.settimeout(_left(ends))
    sock.sendall(request)
    try:
        while not isinstance(event := wire.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                sock.settimeout(_left(ends))
                wire.receive_data(sock.recv(_PIECE_BYTES))
    except h11.RemoteProtocolError:
        raise unreachable(proxy, "it did not answer as a proxy does") from None
    if event.status_code < 300 and wire.trailing_data[0]:
        # Neither a TLS nor an HTTP server speaks first.
        raise unreachable(proxy, "it sent data that nobody had asked for")
    return event


def _left(ends: float | None) -> float | None:
    """Return the seconds that are left. Raises `TimeoutError` if none are."""
    if ends is None:
        return None
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _refusal(proxy: Proxy, target: str, answer: Response) -> PublisherError:
    status = answer.status_code
    given = "credAccount.proxyUrl" if proxy.of_account else _SETTING
    login = "credAccount.proxyLogin and credAccount.proxyPassword" if proxy.of_account else _SETTING
    who = f"the proxy {proxy.where}"
    if status in _LOGIN_NEEDED:
        schemes = [value.split(b" ")[0].lower() for name, value in answer.headers if name == b"proxy-authenticate"]
        if schemes and b"basic" not in b" ".join(schemes):
            words = f"{who} does not accept Basic authentication ({status}), the only kind that is supported"
        elif proxy.login:
            words = f"{who} rejected its login ({status}); check {login}"
        else:
            words = f"{who} requires a login ({status}); give it in {login}"
        return PermanentCloudError(words, reason=Reason.CREDENTIALS if proxy.of_account else Reason.CONFIGURATION)
    if status == 403:
        return PermanentCloudError(
            f"{who} does not allow connections to {target} (403); ask its administrator to allow CONNECT to this host"
            " and port",
            reason=Reason.NETWORK_POLICY,
        )
    if status in _TRANSIENT or (status >= 500 and status not in _NO_PROXY_STATUS):
        return TransientCloudError(f"{who} cannot connect to {target} ({status})", reason=Reason.CONNECTION)
    return PermanentCloudError(
        f"{who} answered {status} to a request for a connection to {target}: it is no proxy, or refuses; check {given}",
        reason=Reason.REQUEST if proxy.of_account else Reason.CONFIGURATION,
    )


def _written(host: str) -> str:
    """Return a host as it is written before a port. Raises `socket.gaierror` if it is no name and no address."""
    with suppress(ValueError):
        return f"[{host}]" if ip_address(host).version == 6 else host
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not name or any(not each.isalnum() and each not in "-._" for each in name):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return name
