"""What OpenStack answers, as the runner knows it."""

from __future__ import annotations

import glanceclient.exc
import pytest
import requests.exceptions
from keystoneauth1 import exceptions as keystone

from publisher.core.errors import CloudError, PermanentCloudError, Reason, TransientCloudError
from workers.clouds.openstack.errors import answered, translated


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
        (glanceclient.exc.CommunicationError("refused"), Reason.CONNECTION),
        (glanceclient.exc.HTTPOverLimit("quota"), Reason.QUOTA),
        (glanceclient.exc.HTTPForbidden("no"), Reason.FORBIDDEN),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_what_the_clients_raise(raised: Exception, reason: Reason) -> None:
    with pytest.raises(CloudError) as caught, translated("Glance"):
        raise raised
    assert caught.value.reason is reason


@pytest.mark.parametrize("raised", [keystone.Unauthorized("no"), glanceclient.exc.HTTPUnauthorized("no")])
def test_a_token_that_is_not_accepted_tells_nothing_of_the_login(raised: Exception) -> None:
    with pytest.raises(TransientCloudError) as caught, translated("Glance", by_token=True):
        raise raised
    assert caught.value.reason is Reason.CREDENTIALS
    assert isinstance(answered("Glance", 403, "no", by_token=True), PermanentCloudError)
