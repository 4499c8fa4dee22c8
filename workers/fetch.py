"""Fetch images by URL, through fsspec: http, https, and s3 if s3fs is installed.

No message and no log of this module shows a URL: its query may grant access (pre-signed URLs).
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.asyn import sync
from fsspec.callbacks import Callback
from yarl import URL

from publisher.core.errors import InvalidRequest, PermanentCloudError, PublisherError, Reason, TransientCloudError
from publisher.core.settings import Settings
from publisher.outbound.policy import OutboundPolicy
from publisher.services.image_files import check_remote
from workers import tls
from workers.http_clients import aiohttp_connector, trust

# fsspec logs the URLs that it opens.
logging.getLogger("fsspec").setLevel(logging.INFO)

_PIECE_BYTES = 4 << 20
_CHECK_SECONDS = 0.25
_TRANSIENT = {408, 425, 429}
_ENCODINGS = {"", "identity", "gzip", "x-gzip", "zstd"}
"""Encodings whose bytes are those of a compressed file."""


def fetch(
    url: str,
    settings: Settings,
    *,
    expect: Callable[[int], None],
    take: Callable[[bytes], None],
    check: Callable[[], None],
) -> None:
    """Fetch the bytes that a URL names, and hand them over.

    `expect` gets the number of bytes, if the server reports it; `take` gets the bytes. `check` is called regularly, and
    stops the fetch by raising.

    Raises `InvalidRequest` for a host that is not allowed, `NetworkRefused` for an address that is not allowed (both
    also after a redirect), `PermanentCloudError` if the file does not exist or access is denied, `TransientCloudError`
    if another attempt may succeed, and what `take` and `check` raise. A connection that moves no byte for
    `stall_seconds` is closed.
    """
    check_remote(url, settings.location_hosts)
    parts = urlsplit(url)
    with _translated(parts.hostname or ""):
        if parts.scheme == "s3":
            _fetch_s3(url, settings, expect, take, check)
        else:
            _fetch_http(url, settings, expect, take, check)


class _Sink(Callback):  # type: ignore[misc]  # fsspec has no types
    """The file-like object that fsspec writes to and reports the size to."""

    def __init__(self, expect: Callable[[int], None], take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._expect = expect
        self._take = take

    def set_size(self, size: int | None) -> None:
        if size:
            self._expect(size)

    def write(self, piece: bytes) -> int:
        self._take(piece)
        return len(piece)

    # fsspec takes an object for a file if it has these methods.

    def read(self, size: int = -1) -> bytes:
        raise io.UnsupportedOperation("read")

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _fetch_http(
    url: str,
    settings: Settings,
    expect: Callable[[int], None],
    take: Callable[[bytes], None],
    check: Callable[[], None],
) -> None:
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=settings.connect_timeout_seconds, sock_read=settings.stall_seconds
    )

    async def check_redirect(_: Any, __: Any, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        target = redirect.response.headers.get("Location") or redirect.response.headers.get("URI") or ""
        check_remote(str(redirect.url.join(URL(target))), settings.location_hosts)

    async def check_encoding(_: Any, __: Any, answered: aiohttp.TraceRequestEndParams) -> None:
        encoding = answered.response.headers.get("Content-Encoding", "").strip().lower()
        if answered.response.ok and encoding not in _ENCODINGS:
            raise PermanentCloudError(
                f"{answered.url.host} sends the file encoded as '{encoding[:40]}', although asked not to;"
                " configure the server to send the file as it is"
            )

    async def session(loop: asyncio.AbstractEventLoop, **_: Any) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(check_redirect)
        tracing.on_request_end.append(check_encoding)
        # Ask for no compression: the hash is that of the generated file. A server may compress nevertheless, or report
        # the compression of the file itself as an encoding: then the file is unpacked within limits, like any
        # compressed file.
        headers = {"Accept-Encoding": "identity"}
        connector = aiohttp_connector(OutboundPolicy.of(settings), trust())
        return aiohttp.ClientSession(
            connector=connector,
            trace_configs=[tracing],
            timeout=timeout,
            headers=headers,
            auto_decompress=False,
        )

    files = fsspec.filesystem("http", get_client=session, skip_instance_cache=True)
    opened = sync(files.loop, files.set_session)
    try:
        sink = _Sink(expect, take)
        getting = files._get_file(url, sink, callback=sink, chunk_size=_PIECE_BYTES)
        sync(files.loop, _checked, getting, check)
    finally:
        sync(files.loop, opened.close)


async def _checked(work: Coroutine[Any, Any, None], check: Callable[[], None]) -> None:
    """Do the work until `check` raises, even while the server sends nothing."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_CHECK_SECONDS))[0]:
            check()
        task.result()
    finally:
        task.cancel()
        # Collect the task's exception so that it is not logged: it may show the URL.
        await asyncio.gather(task, return_exceptions=True)


def _fetch_s3(
    url: str,
    settings: Settings,
    expect: Callable[[int], None],
    take: Callable[[bytes], None],
    check: Callable[[], None],
) -> None:
    timeouts = {"connect_timeout": settings.connect_timeout_seconds, "read_timeout": settings.stall_seconds}
    try:
        files = fsspec.filesystem("s3", config_kwargs=timeouts, skip_instance_cache=True)
    except ImportError:
        raise PermanentCloudError(
            "this worker cannot fetch from s3; install image-publisher[s3] where the workers run",
            reason=Reason.CONFIGURATION,
        ) from None
    bucket = urlsplit(url).hostname or ""
    with _s3_translated(bucket):
        file = files.open(url, "rb", block_size=_PIECE_BYTES, cache_type="readahead")
    with file:
        expect(int(file.size))
        while True:
            check()
            # `take` is outside: its OSError is about our own disk.
            with _s3_translated(bucket):
                piece = file.read(_PIECE_BYTES)
            if not piece:
                return
            take(piece)


@contextmanager
def _s3_translated(bucket: str) -> Iterator[None]:
    """Translate the errors of s3fs and botocore.

    s3fs turns what a server answers into an OSError, and lets botocore's own errors through. By then it has retried for
    some ten seconds.
    """
    from botocore.exceptions import BotoCoreError, HTTPClientError, NoCredentialsError
    from botocore.exceptions import ConnectionError as NotConnected

    try:
        yield
    except (FileNotFoundError, PermissionError, TimeoutError):
        raise
    except OSError as error:
        raise TransientCloudError(
            f"{bucket} cannot be read at the moment: {error.strerror or 'its server failed'}"
        ) from None
    except NoCredentialsError:
        raise PermanentCloudError(
            "this worker has no credentials for s3; see the AWS_… variables of boto3", reason=Reason.CONFIGURATION
        ) from None
    except (HTTPClientError, NotConnected) as error:
        raise TransientCloudError(
            f"the connection to the server of {bucket} failed: {type(error).__name__}", reason=Reason.CONNECTION
        ) from None
    except BotoCoreError as error:
        raise PermanentCloudError(f"{bucket} cannot be read: {type(error).__name__}") from None


@contextmanager
def _translated(host: str) -> Iterator[None]:
    try:
        yield
    except (PublisherError, asyncio.CancelledError):
        raise
    except FileNotFoundError:
        raise PermanentCloudError(f"{host} has no such file") from None
    except PermissionError:
        raise PermanentCloudError(f"{host} refuses access to the file", reason=Reason.FORBIDDEN) from None
    except aiohttp.TooManyRedirects as error:
        seen = [each.url for each in error.history]
        words = "redirects in a loop" if len(set(seen)) < len(seen) else f"redirects more than {len(seen)} times"
        raise PermanentCloudError(f"{host} {words}; give the address of the file itself") from None
    except aiohttp.ClientResponseError as error:
        if error.status < 500 and error.status not in _TRANSIENT:
            raise PermanentCloudError(f"{host} answered {error.status} {error.message}") from None
        after = error.headers.get("Retry-After", "") if error.headers else ""
        raise TransientCloudError(
            f"{host} answered {error.status} {error.message}",
            retry_after_seconds=float(after) if after.isdecimal() else None,
        ) from None
    except aiohttp.InvalidURL:
        raise InvalidRequest("is not a valid URL", field="location") from None
    except TimeoutError:
        raise TransientCloudError(
            f"{host} did not answer in time, or the transfer stalled", reason=Reason.CONNECTION
        ) from None
    except aiohttp.ClientError as error:
        if fault := tls.fault(error, host, "location", bundle=False):
            raise PermanentCloudError(fault, reason=Reason.CONFIGURATION) from None
        raise TransientCloudError(
            f"the connection to {host} failed: {type(error).__name__}", reason=Reason.CONNECTION
        ) from None
