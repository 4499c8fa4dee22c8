"""Downloads of images: with a login, or without one by a one-time key; whole, or a range of bytes."""

from __future__ import annotations

import io
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from email.utils import formatdate
from functools import partial
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from publisher.core.errors import ImageFileError, NotAuthenticated, NotFound
from publisher.core.image import Image
from publisher.intake.conformance import is_head
from publisher.intake.download_keys import image_key, image_of, is_key, ticket_key
from publisher.intake.error_documents import problem
from publisher.services.image_files import open_image
from publisher.web import auth
from publisher.web.request import Id, Services, caller_has, services, signed_in

router = APIRouter()

_APPLIANCE = "/users/{uid}/appliances/{aid}"
_IMAGE_FILE = _APPLIANCE + "/images/{itid}/downloads"
_TICKET_FILE = _APPLIANCE + "/pimages/{pitid}/downloads"

_CHUNK_BYTES = 256 << 10
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)


@router.get(_IMAGE_FILE)
def image_file(request: Request, uid: str, aid: Id, itid: Id) -> Response:
    return _image_file(request, uid, aid, itid, None)


@router.get(_IMAGE_FILE + "/{file_name}")
def named_image_file(request: Request, uid: str, aid: Id, itid: Id, file_name: str) -> Response:
    return _image_file(request, uid, aid, itid, file_name)


@router.get(_TICKET_FILE)
def published_image_file(request: Request, uid: str, aid: Id, pitid: Id) -> Response:
    made = services(request)
    key = _key_alone(request, "downloadId", "id")
    owner = uid if key is not None else auth.owner(made.store, signed_in(request), uid)
    ticket = made.store.tickets.get(pitid)
    if ticket and (ticket.owner, ticket.appliance_id) != (owner, aid):
        ticket = None
    image = image_of(ticket, made.store.images.get(ticket.image_id)) if ticket else None
    if key is not None:
        # Who has no key is told nothing, not even what there is.
        if not (ticket and image and image.ready and is_key(key, ticket_key(made.sealer, ticket, image))):
            raise _bad_key()
    elif not ticket:
        raise NotFound(f"appliance {aid} of {owner} has no published image {pitid}")
    if not image:
        raise NotFound(f"the image of published image {pitid} was deleted")
    return send_image(request, made, image, None if key is None else partial(made.store.tickets.use_key, ticket))


def _image_file(request: Request, uid: str, aid: int, itid: int, file_name: str | None) -> Response:
    made = services(request)
    key = _key_alone(request, "downloadId")
    if key is None:
        image = made.store.images.find(auth.owner(made.store, signed_in(request), uid), aid, itid)
    else:
        found = made.store.images.get(itid)
        right = found and found.ready and is_key(key, image_key(made.sealer, found))
        if not found or not right or (found.owner, found.appliance_id) != (uid, aid):
            raise _bad_key()
        image = found
    if file_name not in (None, image.file_name):
        raise NotFound(f"image {itid} has no file '{file_name}'")
    return send_image(request, made, image, None if key is None else partial(made.store.images.use_key, image))


def _key_alone(request: Request, *names: str) -> str | None:
    """The one-time key of a request that has no login; one that has stands by that, and uses no key up."""
    if "authorization" in request.headers or "apiKey" in request.query_params:
        return None
    return next((request.query_params[name] for name in names if name in request.query_params), None)


def _bad_key() -> NotAuthenticated:
    return NotAuthenticated("the download key is wrong or used up; sign in, or get the image again for another key")


def send_image(request: Request, made: Services, image: Image, use_key: Callable[[], bool] | None = None) -> Response:
    """The file, or the range of it that is asked for. `use_key` uses up the key that it is asked for with, if it is.

    Raises `Conflict`, `NotAuthenticated`.
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
            return problem(
                request,
                416,
                f"Range: the file has {image.size} bytes",
                kind="RangeNotSatisfiable",
                headers={"Content-Range": f"bytes */{image.size}"},
            )
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{image.size}"
        sent = range(image.size) if part is None else part
        headers["Content-Length"] = str(len(sent))
        if is_head(request):
            return Response(headers=headers)
        # Last of all: what is refused uses no key up.
        if use_key and not use_key():
            raise _bad_key()
        opened.pop_all()
        return _FileBody(file, sent, 200 if part is None else 206, headers)


def _wanted(request: Request, etag: str, size: int) -> range | None:
    """The bytes asked for, none where the file has none of them; None for the whole file.

    RFC 9110, 14.2: what is not understood is ignored, and several ranges at once may be. By If-Range the range is
    meant for that very file; a date tells less surely than its ETag which it is, and counts as another file.
    """
    match = _RANGE.fullmatch(request.headers.get("range", "")) if not is_head(request) else None
    if match is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        return range(int(first), min(int(last) + 1, size) if last else size)
    # So many of the last bytes.
    return range(max(0, size - int(last)), size) if last else None


def disposition(file_name: str) -> str:
    """The Content-Disposition of a download (RFC 6266): the name as far as it is plain, and all of it, encoded."""
    plain = re.sub(r"[^A-Za-z0-9!#$&+.^_`|~ ()-]", "_", file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


class _FileBody(StreamingResponse):
    """Bytes of an open file, which it closes. They are read in threads, a chunk at a time, as the caller takes them."""

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
            # All that can be done by now: the caller sees that the connection ended before the file did.
            raise ImageFileError("an image file was cut short while it was being downloaded")
        yield chunk
        at += len(chunk)
