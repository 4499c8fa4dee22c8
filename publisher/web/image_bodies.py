"""Images as bodies: receive those that callers send, check their checksums, and send files or ranges of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import io
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from email.utils import formatdate
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from publisher.core.errors import BodyTooLarge, ImageFileError, InvalidRequest, NotAuthenticated, UnsupportedMediaType
from publisher.core.image import HEX_DIGITS, Checksum, Checksums, Image
from publisher.services.image_files import IncomingImage, open_image
from publisher.store import Store
from publisher.web.conditional import caller_has
from publisher.web.error_handlers import NoRoom, RangeNotSatisfiable, TooSlow
from publisher.web.request import Services, declared_length, is_head, media_type, services
from publisher.web.threads import Threads, writers

_disk = Threads("disk", 40)
"""The disk may be slow, so these threads are not those of other requests."""


IMAGE_TYPE = "application/octet-stream"
"""The Content-Type of an image as a body."""


def is_image(request: Request) -> bool:
    """Return whether the request's body is an image."""
    return media_type(request.headers.get("content-type")) == IMAGE_TYPE


def no_image() -> UnsupportedMediaType:
    """Return the error for a body that must be an image."""
    return UnsupportedMediaType(f"send the image as the body: {IMAGE_TYPE}")


async def received(
    request: Request,
    store: Store,
    *,
    owner: str,
    appliance_id: int,
    name: str = "",
    format: str = "",
    file_name: str = "",
    expected: Checksums = (),
) -> Image:
    """Register the image in the request's body. Only one piece at a time is in memory.

    The image's checksums must match `expected` and those in the request's headers. Raises `InvalidRequest`,
    `BodyTooLarge`, `TooSlow`, `NoRoom` or `ClientDisconnect`; then nothing of the image is kept.
    """
    settings = services(request).settings
    expected = (*expected, *sent_checksums(request.headers))
    incoming = IncomingImage(store, settings, name=name, format=format, file_name=file_name, expected=expected)
    await _disk.run(incoming.__enter__)
    try:
        if (declared := declared_length(request)) is not None:
            _check_size(declared, settings.upload_bytes_max)
            if declared > await _disk.run(lambda: incoming.capacity):
                raise NoRoom
        async for piece in _pieces(request, settings.stall_seconds):
            _check_size(incoming.size + len(piece), settings.upload_bytes_max)
            await _disk.run(incoming.write, piece)
        return await writers.run(incoming.register, owner=owner, appliance_id=appliance_id)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom from None
        raise
    finally:
        # Shielded, so that the file is cleaned up even if the caller disconnects.
        await asyncio.shield(_disk.run(incoming.__exit__, None, None, None))


async def _pieces(request: Request, stall_seconds: float) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises `TooSlow`, or `ClientDisconnect` if it ends too early."""
    stream = request.stream().__aiter__()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), stall_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TooSlow(f"no byte of the image arrived for {stall_seconds:.0f} s") from None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the image is larger than {limit} bytes")


_ALGORITHMS = {"md5": "md5", "sha-256": "sha256", "sha-512": "sha512"}
"""Our names of algorithms, by their names in the IANA registry for HTTP digest fields."""
_MEMBER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.+)")
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/=]*):(?:\s*;.*)?")
"""RFC 9651, 3.3.5: base64 between colons, optionally followed by parameters."""


def sent_checksums(headers: Headers) -> Checksums:
    """Return the checksums that a request's headers give.

    The headers are `Content-MD5` (RFC 1864), `Digest` (RFC 3230), `Content-Digest` and `Repr-Digest` (RFC 9530). All
    are checksums of the bytes as sent. Raises `InvalidRequest`, which names the header, if one is malformed or has only
    unknown algorithms, because its sender relies on the check.
    """
    found = [_decoded("md5", each, "Content-MD5") for each in headers.getlist("content-md5")]
    found += _listed(headers, "Digest", r"(.*)")
    found += _listed(headers, "Content-Digest", _BYTE_SEQUENCE.pattern)
    found += _listed(headers, "Repr-Digest", _BYTE_SEQUENCE.pattern)
    return tuple(found)


def _listed(headers: Headers, name: str, form: str) -> list[Checksum]:
    given = headers.getlist(name)
    if not given:
        return []
    found = []
    for member in ",".join(given).split(","):
        named = _MEMBER.fullmatch(member.strip())
        value = re.fullmatch(form, named[2]) if named else None
        if named is None or value is None:
            raise InvalidRequest("is malformed; see RFC 9530, or RFC 3230 for Digest", field=name)
        if algorithm := _ALGORITHMS.get(named[1].lower()):
            found.append(_decoded(algorithm, value[1], name))
    if not found:
        raise InvalidRequest(f"has no supported algorithm; use one of {', '.join(_ALGORITHMS)}", field=name)
    return found


def _decoded(algorithm: str, text: str, name: str) -> Checksum:
    try:
        value = base64.b64decode(text.strip(), validate=True).hex()
    except (binascii.Error, ValueError):
        value = ""
    if len(value) != HEX_DIGITS[algorithm]:
        raise InvalidRequest(
            f"is no {algorithm} checksum; give its {HEX_DIGITS[algorithm] // 2} bytes in base64", field=name
        )
    return Checksum(algorithm, value, name)


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
        headers |= {"Content-Disposition": disposition(image.file_name), "Content-Type": IMAGE_TYPE}
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
        chunk = await _disk.run(os.pread, file.fileno(), min(_CHUNK_BYTES, part.stop - at), at)
        if not chunk:
            # The headers are sent, so all we can do is end the connection: the caller sees that bytes are missing.
            raise ImageFileError("an image file was cut short while it was being downloaded")
        yield chunk
        at += len(chunk)
