"""Images that callers send: taken in as they come, and registered once all of them is there."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from publisher.core.image import Checksums, Image
from publisher.core.settings import Settings
from publisher.services.image_files import IncomingImage
from publisher.store import Store
from publisher.web.body_limits import BodyTooLarge
from publisher.web.digest_headers import told_digests
from publisher.web.error_handlers import NoRoom, TooSlow
from publisher.web.request import declared_length, run_as_writer


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
    """The image that the request's body is. What has come is written to the disk, and no more of it kept in memory.

    The checksums that its headers tell are compared, besides those `expected`.

    Raises `InvalidRequest`, `BodyTooLarge`, `TooSlow`, `NoRoom`, and `ClientDisconnect`; nothing is left of it then.
    """
    # Opened, written and closed in threads: the disk may be slow.
    expected = (*expected, *told_digests(request.headers))
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
        return await run_as_writer(incoming.register, owner=owner, appliance_id=appliance_id)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom from None
        raise
    finally:
        # Shielded: the caller's going away must not keep us from cleaning up.
        await asyncio.shield(run_in_threadpool(incoming.__exit__, None, None, None))


async def _pieces(request: Request, stall_seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `TooSlow`, and `ClientDisconnect` where it ends before it is complete."""
    stream = request.stream().__aiter__()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), stall_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TooSlow(f"no byte of the image came for {stall_seconds:.0f} s") from None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the image is larger than {limit} bytes")
