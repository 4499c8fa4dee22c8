"""Answers and exceptions of OpenStack become errors that the runner knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests.exceptions
from keystoneauth1 import exceptions as keystone

from publisher.core.errors import CloudError, PermanentCloudError, Reason, TransientCloudError
from workers.clouds.openstack.errors import answered, translated, words_of


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, PermanentCloudError, Reason.REFUSED),
        (401, PermanentCloudError, Reason.CREDENTIALS),
        (403, PermanentCloudError, Reason.FORBIDDEN),
        (408, TransientCloudError, Reason.UNAVAILABLE),
        (413, PermanentCloudError, Reason.QUOTA),
        (429, TransientCloudError, Reason.UNAVAILABLE),
        (500, TransientCloudError, Reason.UNAVAILABLE),
        (503, TransientCloudError, Reason.UNAVAILABLE),
        (507, PermanentCloudError, Reason.QUOTA),
    ],
)
def test_http_status_maps_to_error_class_and_reason(status: int, kind: type[CloudError], reason: Reason) -> None:
    error = answered("Glance", status, "words")
    assert (type(error), error.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (keystone.Unauthorized("no"), Reason.CREDENTIALS),
        (keystone.Forbidden("no"), Reason.FORBIDDEN),
        (keystone.ServiceUnavailable("no"), Reason.UNAVAILABLE),
        (keystone.ConnectFailure("refused"), Reason.CONNECTION),
        (keystone.ConnectTimeout("timed out"), Reason.CONNECTION),
        (keystone.DiscoveryFailure("nothing there"), Reason.CONNECTION),
        (requests.exceptions.ChunkedEncodingError("reset"), Reason.CONNECTION),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_client_exception_maps_to_reason(raised: Exception, reason: Reason) -> None:
    with pytest.raises(CloudError) as caught, translated("Glance"):
        raise raised
    assert caught.value.reason is reason


def test_401_for_a_token_is_transient_but_403_is_permanent() -> None:
    with pytest.raises(TransientCloudError) as caught, translated("Glance", by_token=True):
        raise keystone.Unauthorized("no")
    assert caught.value.reason is Reason.CREDENTIALS
    assert isinstance(answered("Glance", 403, "no", by_token=True), PermanentCloudError)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message": "No such image.<br /><br />\\n", "code": "404 Not Found"}', "No such image."),
        (b"<html><h1>403 Forbidden</h1> the quota </html>", "403 Forbidden the quota"),
        (b'{"message": ["no text"]}', '{"message": ["no text"]}'),
        (b'{"auth": {"password": "hunt\\"er2", "user": "joe"}}', '{"auth": {"password=***, "user": "joe"}}'),
        (b"bad request {'password': 'hunter2', 'a': 1}", "bad request {'password=***, 'a': 1}"),
        (b"bad request password=hunter2 a=1", "bad request password=*** a=1"),
        (b"[" * 4096, "[" * 300),
        (b"<" * (4 << 20), "<" * 300),
        (b"", ""),
        (b'{"message": "Image &quot;x&quot; &amp;amp; co &lt;5 GiB&#39;s"}', 'Image "x" &amp; co <5 GiB\'s'),
        (b"<style>p {color: red}</style><p class='a'>no <b>room</b></p><!-- x --> 1 < 2", "no room 1 < 2"),
        (b"<script>if (a < b) {}</script>gone", "gone"),
        (b'{"error": {"code": 403, "message": "not here", "title": "Forbidden"}}', "not here"),
        (b"bad request password=&quot;hunter2 &quot; a=1", "bad request password=*** a=1"),
        (b"&" * 5000, "&" * 300),
    ],
    ids=[
        "json",
        "html",
        "strange",
        "echoed",
        "repr",
        "form",
        "deep",
        "long",
        "none",
        "entities",
        "style",
        "script",
        "keystone's",
        "echoed in entities",
        "ampersands",
    ],
)
def test_error_page_is_reduced_to_its_message_without_secrets(body: bytes, words: str) -> None:
    assert words_of(body) == words


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("-5", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_read(value: str, least: float, most: float) -> None:
    error = answered("Glance", 503, "", {"retry-after": value})
    assert isinstance(error, TransientCloudError)
    assert error.retry_after_seconds is not None
    assert least <= error.retry_after_seconds <= most


def test_retry_after_is_read_from_a_date() -> None:
    before = datetime.now(UTC)
    date = format_datetime(before + timedelta(days=1), usegmt=True)
    error = answered("Glance", 503, "", {"retry-after": date})
    took = (datetime.now(UTC) - before).total_seconds()
    assert isinstance(error, TransientCloudError)
    assert error.retry_after_seconds is not None
    # The date has whole seconds.
    assert 86400 - 1 - took <= error.retry_after_seconds <= 86400


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": ""}, {"Retry-After": "nan"}])
def test_missing_or_invalid_retry_after_is_ignored(headers: dict[str, str]) -> None:
    error = answered("Glance", 503, "", headers)
    assert isinstance(error, TransientCloudError)
    assert not error.retry_after_seconds
