"""Receive images that callers send: write them to the disk as they arrive, and register them when they are complete."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from publisher.core.image import Checksums, Image
from publisher.core.settings import Settings
from publisher.services.image_files import IncomingImage
from publisher.store import Store
from publisher.web.body_limits import BodyTooLarge
from publisher.web.digest_headers import sent_checksums
from publisher.web.error_handlers import NoRoom, TooSlow
from publisher.web.request import declared_length
from publisher.web.routing import writers


async def received(
    request: Request,
    settings: Settings,
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
    # Threads open, write and close the file, because the disk may be slow.
    expected = (*expected, *sent_checksums(request.headers))
    incoming = IncomingImage(store, settings, name=name, format=format, file_name=file_name, expected=expected)
    await run_in_threadpool(incoming.__enter__)
    try:
        if (declared := declared_length(request)) is not None:
            _check_size(declared, settings.upload_bytes_max)
            if declared > await run_in_threadpool(lambda: incoming.capacity):
                raise NoRoom
        async for piece in _pieces(request, settings.stall_seconds):
            _check_size(incoming.size + len(piece), settings.upload_bytes_max)
            await run_in_threadpool(incoming.write, piece)
        return await writers.run(incoming.register, owner=owner, appliance_id=appliance_id)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom from None
        raise
    finally:
        # Shielded, so that the file is cleaned up even if the caller disconnects.
        await asyncio.shield(run_in_threadpool(incoming.__exit__, None, None, None))


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
