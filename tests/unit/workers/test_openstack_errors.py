"""What OpenStack answers, as the runner knows it."""

from __future__ import annotations

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
def test_what_a_status_stands_for(status: int, kind: type[CloudError], reason: Reason) -> None:
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
        (keystone.SSLError("not trusted"), Reason.CONFIGURATION),
        (requests.exceptions.ChunkedEncodingError("reset"), Reason.CONNECTION),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_what_the_clients_raise(raised: Exception, reason: Reason) -> None:
    with pytest.raises(CloudError) as caught, translated("Glance"):
        raise raised
    assert caught.value.reason is reason


def test_a_token_that_is_not_accepted_tells_nothing_of_the_login() -> None:
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
    ],
    ids=["json", "html", "strange", "echoed", "repr", "form", "deep", "long", "none"],
)
def test_what_an_error_page_says(body: bytes, words: str) -> None:
    assert words_of(body) == words
