"""The connection of a caller: uvicorn's, with time limits and with errors as `uforgeError` documents.

Uvicorn itself waits forever for a request that does not come, and answers invalid HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, Self

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from publisher.core.settings import Settings
from publisher.intake.error_documents import problem_document
from publisher.web.negotiation import Format, NotAcceptable, answer_format, media_type

_HEAD_KEPT_BYTES = 1024
_REQUEST_LINE = re.compile(rb"\A\s*([A-Za-z]{1,20}) ([!-~]{1,900})(?:[ \r\n]|\Z)")
_UNKNOWN_METHOD = "UNKNOWN"
_IMAGE = "application/octet-stream"
_GRACE_SECONDS = 5.0
"""Added to the app's own time limit for an image, so that the app answers first: its answer says more."""
_LINGER_SECONDS = 10.0
"""A closed connection is aborted if its caller has not read the last answer after this time."""
_MESSAGES = {
    400: "the request is not valid HTTP",
    431: "the request's headers are too large",
    501: "Transfer-Encoding: use chunked, and no other coding",
}


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


class CallerConnection(H11Protocol):
    """A connection with one timer for each wait: for the head of a request, for its body, or for the caller to read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = _patience()
        self.timeout_keep_alive = self._patience.keep_alive_seconds  # type: ignore[assignment]  # given to call_later
        self._head = bytearray()
        """The first bytes of the request that is being received."""
        self._waits_for: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._received_bytes = 0

    # What uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self.conn.their_state is h11.IDLE:
            self._head += data[: _HEAD_KEPT_BYTES - len(self._head)]
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        # The bytes of the next request that have arrived meanwhile.
        self._head[:] = self.conn.trailing_data[0][:_HEAD_KEPT_BYTES]
        super().on_response_complete()
        if self._head and self.conn.their_state is h11.IDLE:
            self._unset_keepalive_if_required()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse the request. Uvicorn calls this while it handles an error of h11, which knows the status."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        status = status if status in _MESSAGES else 400
        self._refuse(status, _MESSAGES[status])

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_watching_reader()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._linger()

    def _should_upgrade(self) -> bool:
        return False  # a server may ignore it (RFC 9110, 7.8)

    # Waiting

    def _watch(self) -> None:
        """Find what the connection waits for now. If that has changed, start its timer."""
        wanted: Callable[[], None] | None = None
        if not self.transport.is_closing():
            if self.conn.their_state is h11.SEND_BODY:
                wanted = self._await_body
            elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
                wanted = self._await_head
        # Another request is another wait, even if both wait for a body.
        waits_for = (wanted, self.cycle) if wanted else None
        if waits_for != self._waits_for:
            self._stop_waiting()
            self._waits_for = waits_for
            if wanted:
                wanted()

    def _stop_waiting(self) -> None:
        self._waits_for = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_head(self) -> None:
        if self._patience.head_seconds > 0:
            self._timer = self.loop.call_later(self._patience.head_seconds, self._no_head)

    def _no_head(self) -> None:
        if self._head:
            self._refuse(408, "the request's headers did not arrive in time")
        else:
            self._close()

    def _await_body(self, slow_before: bool = False) -> None:
        """Check twice within the time limit: a caller is slow if it was too slow both times."""
        content_type = next((value for name, value in self.headers if name == b"content-type"), b"")
        is_image = media_type(content_type.decode("latin-1")) == _IMAGE
        seconds = self._patience.image_seconds if is_image else self._patience.body_seconds
        if seconds > 0:
            seen = None if self._we_do_not_read() else self._received_bytes
            self._timer = self.loop.call_later(seconds / 2, self._look_at_body, seconds / 2, seen, slow_before)

    def _look_at_body(self, seconds: float, seen_bytes: int | None, slow_before: bool) -> None:
        # While we do not read, the caller cannot send: that does not make it slow.
        slow = (
            seen_bytes is not None
            and not self._we_do_not_read()
            and self._received_bytes - seen_bytes < max(1.0, seconds * self._patience.bytes_per_second)
        )
        if slow and slow_before:
            self._refuse(408, "the request's body did not arrive in time")
        else:
            self._await_body(slow)

    def _we_do_not_read(self) -> bool:
        waiting = not self.cycle.response_complete and (self.cycle.waiting_for_100_continue or bool(self.cycle.body))
        return self.flow.read_paused or waiting

    def _watch_reader(self, unsent_bytes: int) -> None:
        self._stop_watching_reader()
        self._reader_timer = self.loop.call_later(self._patience.image_seconds, self._look_at_reader, unsent_bytes)

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
        answering = self.cycle is not None and not self.cycle.response_complete
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            method, uri, form = self._request_in_question(answering)
            kind = "".join(part.title() for part in HTTPStatus(status).phrase.split())
            body = problem_document(form, status, message, kind=kind, method=method, uri=uri)
            headers = [
                *self.server_state.default_headers,
                (b"content-type", form.content_type.encode()),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ]
            response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
            without_body = method == "HEAD" and answering
            for event in (response, h11.Data(data=b"" if without_body else body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if answering:
            # Nobody gets the rest of the app's answer: tell the app at once.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._close()

    def _request_in_question(self, answering: bool) -> tuple[str, str, Format]:
        if answering:
            accept = next((value.decode("latin-1") for name, value in self.headers if name == b"accept"), None)
            try:
                form = answer_format(accept)
            except NotAcceptable:
                form = Format.XML
            return self.scope["method"], self.scope["raw_path"].decode("ascii"), form
        line = _REQUEST_LINE.match(self._head)
        if line is None:
            return _UNKNOWN_METHOD, "/", Format.XML
        return line[1].decode(), line[2].decode().partition("?")[0] or "/", Format.XML

    def _close(self) -> None:
        self._stop_waiting()
        self.transport.close()
        self._linger()

    def _linger(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
