"""Download an image file: the whole file, or a range of bytes."""

from __future__ import annotations

import io
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from email.utils import formatdate
from urllib.parse import quote

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from publisher.core.errors import ImageFileError, NotAuthenticated
from publisher.core.image import Image
from publisher.services.image_files import open_image
from publisher.web.conditional import caller_has
from publisher.web.error_handlers import RangeNotSatisfiable
from publisher.web.request import Services, is_head

_CHUNK_BYTES = 256 << 10
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)


def bad_key() -> NotAuthenticated:
    """Return the error for a download key that is wrong or used up."""
    return NotAuthenticated("the download key is wrong or used up; sign in, or get the image again for another key")


def send_image(request: Request, made: Services, image: Image, use_key: Callable[[], bool] | None = None) -> Response:
    """Answer with the image's file, or the range of it that the request asks for.

    `use_key` uses up the request's one-time key, and returns False if another request was faster.
    Raises `Conflict`, `NotAuthenticated`, `RangeNotSatisfiable`.
    """
    with ExitStack() as opened:
        file = opened.enter_context(open_image(made.settings.images, image))
        changed = math.ceil(image.registered or 0.0)
        headers = {
            "ETag": f'"{image.sha256}"',
            "Last-Modified": formatdate(min(changed, math.floor(time.time())), usegmt=True),
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization",
        }
        if caller_has(request, headers["ETag"], changed):
            return Response(status_code=304, headers=headers)
        headers |= {"Content-Disposition": disposition(image.file_name), "Content-Type": "application/octet-stream"}
        part = _wanted(request, headers["ETag"], image.size)
        if part is not None and not part:
            raise RangeNotSatisfiable(image.size)
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{image.size}"
        sent = range(image.size) if part is None else part
        headers["Content-Length"] = str(len(sent))
        if is_head(request):
            return Response(headers=headers)
        # This comes last, so that a refused request does not use up the key.
        if use_key and not use_key():
            raise bad_key()
        opened.pop_all()
        return _FileBody(file, sent, 200 if part is None else 206, headers)


def _wanted(request: Request, etag: str, size: int) -> range | None:
    """Return the requested range, empty if the file has none of its bytes; None for the whole file.

    RFC 9110, 14.2: a range that is not understood is ignored, and so may be several ranges at once. With If-Range, the
    range applies only to that version of the file. A date in If-Range is less reliable than an ETag, so it never
    matches.
    """
    match = _RANGE.fullmatch(request.headers.get("range", "")) if not is_head(request) else None
    if match is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        return range(int(first), min(int(last) + 1, size) if last else size)
    # A suffix range: the last bytes.
    return range(max(0, size - int(last)), size) if last else None


def disposition(file_name: str) -> str:
    """Return the Content-Disposition of a download (RFC 6266): the name in plain characters, and the exact name."""
    plain = re.sub(r"[^A-Za-z0-9!#$&+.^_`|~ ()-]", "_", file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


class _FileBody(StreamingResponse):
    """Sends bytes of an open file, and closes it. Threads read a chunk at a time, as fast as the caller receives."""

    def __init__(self, file: io.FileIO, part: range, status: int, headers: dict[str, str]) -> None:
        super().__init__(_chunks(file, part), status, headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


async def _chunks(file: io.FileIO, part: range) -> AsyncIterator[bytes]:
    at = part.start
    while at < part.stop:
        chunk = await to_thread.run_sync(os.pread, file.fileno(), min(_CHUNK_BYTES, part.stop - at), at)
        if not chunk:
            # The headers are sent, so all we can do is end the connection: the caller sees that bytes are missing.
            raise ImageFileError("an image file was cut short while it was being downloaded")
        yield chunk
        at += len(chunk)
