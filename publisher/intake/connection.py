"""The connection of a caller: HTTP/1.1 for uvicorn, with time limits and with errors as `uforgeError` documents.

Uvicorn's own connections wait forever for a request that does not come, and answer invalid HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Self
from urllib.parse import unquote

from starlette.types import ASGIApp, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl, service_unavailable
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from publisher.core.settings import Settings
from publisher.intake.exchange import Exchange, error_answer
from publisher.intake.request_reader import Head, Malformed, RequestReader
from publisher.intake.wire.formats import Format
from publisher.web import media_type

_HEAD_KEPT_BYTES = 1024
_REQUEST_LINE = re.compile(rb"\A\s*([A-Za-z]{1,20}) ([!-~]{1,900})(?:[ \r\n]|\Z)")
_UNKNOWN_METHOD = "UNKNOWN"
_IMAGE = "application/octet-stream"
_GRACE_SECONDS = 5.0
"""Added to the app's own time limit for an image, so that the app answers first: its answer says more."""
_LINGER_SECONDS = 10.0
"""A closed connection is aborted if its caller has not read the last answer after this time."""
_EARLY_SECONDS = 0.01
"""A timer may expire this early, because an event loop's clock is not exact."""
_MESSAGES = {
    400: "the request is not valid HTTP",
    431: "the request's headers are too large",
    501: "Transfer-Encoding: use chunked, and no other coding",
}

_logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection waits for its caller. 0: no limit."""

    keep_alive_seconds: float
    head_seconds: float
    body_seconds: float
    image_seconds: float
    """Like `body_seconds`, for images."""
    bytes_per_second: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            settings.keep_alive_seconds,
            settings.request_head_seconds,
            settings.request_body_seconds,
            settings.stall_seconds + _GRACE_SECONDS,
            settings.request_bytes_per_second_min,
        )


@cache
def _patience() -> Patience:
    return Patience.of(Settings.from_environment())


class CallerConnection(asyncio.Protocol):
    """Reads one request after another, and waits with a time limit: for a head, for a body, for the caller to read.

    The next request is read after the last one's answer. Until then it waits in the socket.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._patience = _patience()
        self._reader = RequestReader()
        self._receiving: Exchange | None = None
        """The request whose body is arriving."""
        self._answering: Exchange | None = None
        """The request whose answer is not complete."""
        self._is_new = True
        self._waits_for: object = None
        self._deadline = _Deadline(self._loop)
        self._reader_timer: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        self.flow: FlowControl
        self.transport: asyncio.Transport
        self._scope: Scope

    # What the event loop and uvicorn call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls `shutdown`
        self.transport = transport
        self.flow = FlowControl(transport)
        self._context = contextvars.copy_context()
        self._scope = {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": self._config.root_path,
        }
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._stop_waiting()
        self._deadline.close()
        self._stop_watching_reader()
        if self._answering is not None:
            self._answering.end()
        self._answering = self._receiving = None
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        self._reader.feed(data)
        self._read()

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_watching_reader()
        self.flow.resume_writing()

    def shutdown(self) -> None:
        """Close the connection, as soon as the answer in progress is complete."""
        if self._answering is None:
            self.close()
        else:
            self._answering.keep_alive = False

    # Reading

    def _read(self) -> None:
        try:
            self._read_requests()
        except Malformed as error:
            _logger.warning("Invalid HTTP request received.")
            self._refuse(error.status, _MESSAGES[error.status])
        self._watch()

    def _read_requests(self) -> None:
        while not self.transport.is_closing():
            if self._receiving is not None:
                piece, ended = self._reader.read_body()
                self._receiving.take(piece, ended)
                if not ended:
                    return
                self._receiving = None
            elif self._answering is not None:
                if self._reader.unread:
                    self.flow.pause_reading()
                return
            elif head := self._reader.read_head():
                self._begin(head)
            else:
                return

    def _begin(self, head: Head) -> None:
        path, _, query = head.target.partition(b"?")
        decoded = path.decode("ascii")
        root = self._config.root_path
        scope = {
            **self._scope,
            "http_version": head.version,
            "method": head.method,
            "path": root + (unquote(decoded) if "%" in decoded else decoded),
            "raw_path": root.encode("ascii") + path,
            "query_string": query,
            "headers": head.headers,
            "state": self._app_state.copy(),
        }
        limit = self._config.limit_concurrency
        app: ASGIApp = self._config.loaded_app
        if limit is not None and (len(self._server.connections) >= limit or len(self._server.tasks) >= limit):
            app = service_unavailable  # type: ignore[assignment]
            _logger.warning("Exceeded concurrency limit.")
        exchange = Exchange(
            *(self.transport, self.flow, scope, head, self._server.default_headers),
            close=self.close,
            answered=self._answered,
        )
        self._is_new = False
        self._answering = exchange
        self._receiving = exchange if exchange.more_body else None
        # Each request has a context of its own, even one that is read while the last one's answer ends.
        task = self._loop.create_task(exchange.run(app), context=self._context.copy())
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _answered(self) -> None:
        """Go on with the next request."""
        self._server.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._waits_for = None  # the rest of an answered request's body has a time limit of its own
        self._read()

    # Waiting

    def _watch(self) -> None:
        """Find what the connection waits for now. If that has changed, start its time limit."""
        if self.transport.is_closing():
            self._stop_waiting()
        elif self._receiving is not None:
            if self._waits_for is not self._receiving:
                self._waits_for = self._receiving
                self._await_body(self._receiving)
        elif self._answering is not None:
            self._stop_waiting()
        elif self._reader.unread or self._is_new:
            if self._waits_for != "head":
                self._waits_for = "head"
                self._deadline.set(self._patience.head_seconds, self._no_head)
        elif self._waits_for != "request":
            self._waits_for = "request"
            self._deadline.set(self._patience.keep_alive_seconds, self.close, at_once=True)

    def _stop_waiting(self) -> None:
        self._waits_for = None
        self._deadline.clear()

    def _no_head(self) -> None:
        if self._reader.unread:
            self._refuse(408, "the request's headers did not arrive in time")
        else:
            self.close()

    def _await_body(self, exchange: Exchange, slow_before: bool = False) -> None:
        """Check twice within the time limit: a caller is slow if it was too slow both times."""
        is_image = media_type(exchange.header(b"content-type") or "") == _IMAGE
        seconds = self._patience.image_seconds if is_image else self._patience.body_seconds
        if seconds <= 0 and exchange.complete:
            seconds = self._patience.keep_alive_seconds
        seen = None if self._we_do_not_read(exchange) else self._received_bytes

        def look() -> None:
            # While we do not read, the caller cannot send: that does not make it slow.
            slow = (
                seen is not None
                and not self._we_do_not_read(exchange)
                and self._received_bytes - seen < max(1.0, seconds / 2 * self._patience.bytes_per_second)
            )
            if slow and slow_before:
                self._refuse(408, "the request's body did not arrive in time")
            else:
                self._await_body(exchange, slow)

        self._deadline.set(seconds / 2, look)

    def _we_do_not_read(self, exchange: Exchange) -> bool:
        return self.flow.read_paused or exchange.waits_for_app()

    def _watch_reader(self, unsent_bytes: int) -> None:
        self._stop_watching_reader()
        self._reader_timer = self._loop.call_later(self._patience.image_seconds, self._look_at_reader, unsent_bytes)

    def _look_at_reader(self, unsent_before: int) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes >= unsent_before:
            self.transport.abort()
        else:
            self._watch_reader(unsent_bytes)

    def _stop_watching_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    # Ending

    def _refuse(self, status: int, message: str) -> None:
        """Answer with a `uforgeError` unless another answer has begun, and close the connection."""
        answering = self._answering
        if self.transport.is_closing():
            pass
        elif answering is not None and answering.unanswered:
            answering.answer_error(status, message)
        elif answering is None and self._receiving is None:
            method, uri = self._request_in_question()
            answer = error_answer(status, message, Format.XML, method, uri, self._server.default_headers)
            self.transport.write(b"".join(answer))
        if answering is not None:
            answering.end()  # nobody gets the rest of the app's answer: tell the app at once
        self.close()

    def _request_in_question(self) -> tuple[str, str]:
        line = _REQUEST_LINE.match(self._reader.unread[:_HEAD_KEPT_BYTES])
        if line is None:
            return _UNKNOWN_METHOD, "/"
        return line[1].decode(), line[2].decode().partition("?")[0] or "/"

    def close(self) -> None:
        self._stop_waiting()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._loop.call_later(_LINGER_SECONDS, self.transport.abort)


class _Deadline:
    """A time limit that is set and cleared for each request, with a timer that is started only every few seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._at = 0.0
        self._action: Callable[[], None] | None = None

    def set(self, seconds: float, action: Callable[[], None], *, at_once: bool = False) -> None:
        """Call `action` after that time. 0: never, or `at_once`."""
        if seconds <= 0 and not at_once:
            self._action = None
            return
        self._action = action
        self._at = self._loop.time() + seconds
        if self._timer is None or self._timer_at > self._at:
            self._start(seconds)

    def clear(self) -> None:
        self._action = None

    def close(self) -> None:
        self._action = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._expired)
        self._timer_at = self._at

    def _expired(self) -> None:
        self._timer = None
        if self._action is None:
            return
        left = self._at - self._loop.time()
        if left > _EARLY_SECONDS:
            self._start(left)
        else:
            action, self._action = self._action, None
            action()
