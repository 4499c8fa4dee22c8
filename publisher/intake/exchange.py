"""One request and its answer: what an ASGI application receives and sends, as HTTP/1.1 on a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import cache
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from publisher.core.errors import NotAcceptable
from publisher.intake.error_documents import problem_document
from publisher.intake.request_reader import Head
from publisher.intake.wire.formats import Format, answer_format

Headers = list[tuple[bytes, bytes]]

_CONTROLS = bytes({*range(0x20), 0x7F} - {ord("\t")})
_UNEXPECTED = "an unexpected error occurred; the intake's log has the details"

_logger = logging.getLogger("uvicorn.error")
_access_logger = logging.getLogger("uvicorn.access")


class Exchange:
    """One request and its answer. The connection gives it the request's body, and it writes the answer."""

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        scope: Scope,
        head: Head,
        default_headers: Headers,
        *,
        close: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        """`close` closes the connection. `answered` is called at the end of the answer, even after `close`."""
        self._transport = transport
        self._flow = flow
        self._scope = scope
        self._default_headers = default_headers
        self._close = close
        self._answered = answered
        self._is_1_1 = head.version >= "1.1"
        self._expects_continue = head.expects_continue
        self._method = head.method
        self.keep_alive = head.keep_alive
        self.more_body = head.length != 0
        self._pieces: list[bytes] = []
        self._kept_bytes = 0
        self._has_news = not self.more_body
        """Whether the application's next `receive` returns at once."""
        self._receivers: list[asyncio.Future[None]] = []
        """Those that wait for news. An `asyncio.Event` takes half a kilobyte, too much for thousands of held polls."""
        self._disconnected = False
        self.complete = False
        self._started = False
        self._unsent_head = b""
        """The answer's line and headers, until they are sent."""
        self._bodiless = False
        self._chunked = False
        self._left: int | None = None
        """How much of the answer's body is still to come, in bytes. None: unknown."""

    # For the connection

    @property
    def unanswered(self) -> bool:
        """Whether nothing of the answer has been sent."""
        return not self._started or bool(self._unsent_head)

    def header(self, wanted: bytes) -> str | None:
        return next((value.decode("latin-1") for name, value in self._scope["headers"] if name == wanted), None)

    def take(self, piece: bytes, ended: bool) -> None:
        """Give the application a part of the request's body, unless it has answered already."""
        if self.complete:
            return
        if piece:
            self._pieces.append(piece)
            self._kept_bytes += len(piece)
            if self._kept_bytes > HIGH_WATER_LIMIT:
                self._flow.pause_reading()
        if piece or ended:
            self.more_body = not ended
            self._tell()

    def waits_for_app(self) -> bool:
        """Tell whether the caller, or what it has sent, waits for the application to read."""
        return not self.complete and (self._expects_continue or bool(self._pieces))

    def end(self) -> None:
        """Tell the application that nobody gets its answer."""
        if not self.complete:
            self._disconnected = True
            self._unsent_head = b""
        self._tell()

    def _tell(self) -> None:
        self._has_news = True
        for each in self._receivers:
            if not each.done():
                each.set_result(None)

    def answer_error(self, status: int, message: str) -> None:
        """Write a `uforgeError` in place of the application's answer. The connection must be closed after it."""
        try:
            form = answer_format(self.header(b"accept"))
        except NotAcceptable:
            form = Format.XML
        raw_path = self._scope["raw_path"].decode("ascii")
        head, body = error_answer(status, message, form, self._method, raw_path, self._default_headers)
        self._transport.write(head if self._method == "HEAD" else head + body)

    # For the application

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as error:  # also what cancels it: the caller must get an answer
            _logger.error("Exception in ASGI application\n", exc_info=error)
            self._failed()
        else:
            if not self.complete and not self._disconnected:
                _logger.error("ASGI callable returned without completing response.")
                self._failed()

    def _failed(self) -> None:
        if self._disconnected or self.complete:
            return
        if self.unanswered:
            self.answer_error(500, _UNEXPECTED)
        self.end()
        self._close()

    async def receive(self) -> Message:
        if self._expects_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_continue = False
        if not self._disconnected and not self.complete:
            self._flow.resume_reading()
            if not self._has_news:
                await self._next_news()
            self._has_news = False
        if self._disconnected or self.complete:
            return {"type": "http.disconnect"}
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._kept_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def _next_news(self) -> None:
        news = asyncio.get_running_loop().create_future()
        self._receivers.append(news)
        try:
            await news
        finally:
            self._receivers.remove(news)

    async def send(self, message: Message) -> None:
        if self._flow.write_paused and not self._disconnected:
            await self._flow.drain()
        if self._disconnected:
            return
        expected = "http.response.body" if self._started else "http.response.start"
        if self.complete or message["type"] != expected:
            raise RuntimeError(f"The application sent {message['type']!r}, out of order.")
        if self._started:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._start(message["status"], message.get("headers", ()))

    def _start(self, status: int, headers: Headers) -> None:
        self._unsent_head = self._head_of_answer(status, headers)
        self._started = True
        self._expects_continue = False
        if _access_logger.hasHandlers():
            client, path = get_client_addr(self._scope), get_path_with_query_string(self._scope)  # type: ignore[arg-type]
            version = self._scope["http_version"]
            _access_logger.info('%s - "%s %s HTTP/%s" %d', client, self._method, path, version, status)
        if self._left is None and not self._bodiless:
            # The body may come much later. One of a known size is there already, and is sent together with the head.
            asyncio.get_running_loop().call_soon(self._send_head)

    def _send_head(self) -> None:
        if self._unsent_head and not self._disconnected:
            self._transport.write(self._unsent_head)
            self._unsent_head = b""

    def _head_of_answer(self, status: int, headers: Headers) -> bytes:
        given = dict(headers)
        if b"transfer-encoding" in given:  # the connection decides
            headers = [each for each in headers if each[0] != b"transfer-encoding"]
        lines = [*map(b": ".join, self._default_headers), *map(b": ".join, headers), b""]
        fields = b"\r\n".join(lines)
        if len(fields) - len(fields.translate(None, _CONTROLS)) != len(b"\r\n") * (len(lines) - 1):
            raise RuntimeError("A header of the answer has a control character.")
        if length := given.get(b"content-length"):
            self._left = int(length)
        self._bodiless = self._method == "HEAD" or status in (204, 304)
        self._chunked = self._left is None and self._is_1_1 and status not in (204, 304)
        closes = b"close" in given.get(b"connection", b"").lower()
        self.keep_alive = self.keep_alive and not closes and (self._bodiless or self._chunked or self._left is not None)
        if self._chunked:
            fields += b"transfer-encoding: chunked\r\n"
        if not self.keep_alive and not closes:
            fields += b"connection: close\r\n"
        return b"%b%b\r\n" % (_status_line(status), fields)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._bodiless:
            body = b""
        elif self._chunked:
            end = b"" if more else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The answer's body does not have the size of its Content-Length.")
        if self._unsent_head:
            body, self._unsent_head = self._unsent_head + body, b""
        if body:
            self._transport.write(body)
        if not more:
            self.complete = True
            self._pieces.clear()
            self._tell()
            if not self.keep_alive:
                self._close()
            self._answered()


@cache
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def error_answer(
    status: int, message: str, form: Format, method: str, uri: str, default_headers: Headers
) -> tuple[bytes, bytes]:
    """Return the head and the body of a `uforgeError` that closes the connection."""
    kind = "InternalError" if status == 500 else "".join(part.title() for part in HTTPStatus(status).phrase.split())
    body = problem_document(form, status, message, kind=kind, method=method, uri=uri)
    headers = [
        *default_headers,
        (b"content-type", form.content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    return b"".join((_status_line(status), *(b"%b: %b\r\n" % each for each in headers), b"\r\n")), body
