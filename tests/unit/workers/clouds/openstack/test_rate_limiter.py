"""The OpenStack clients' rate limiter sleeps by the wall clock, so that workers do not use it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from keystoneauth1 import _fair_semaphore
from keystoneauth1.token_endpoint import Token
from keystoneclient.v3.client import Client

from publisher.outbound.policy import EVERYWHERE
from tests.servers.answering import serving
from workers.clouds.base import Timeouts
from workers.clouds.openstack.images import GlanceImages
from workers.clouds.openstack.session import Reach
from workers.http_clients import trust

REACH = Reach(Timeouts(5.0, 20.0, 20.0), EVERYWHERE, trust())


@pytest.fixture
def cloud() -> Iterator[str]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = b'{"images": [], "projects": [], "links": {}}'
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer) as url:
        yield url


def test_clock_that_is_set_back_delays_no_call(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    day = [1_000_000.0]
    slept: list[float] = []
    monkeypatch.setattr(_fair_semaphore, "time", SimpleNamespace(time=lambda: day[0], sleep=slept.append))
    session = REACH.session(Token(cloud, "a token"))
    images, identity = GlanceImages(session, cloud), Client(session=session, endpoint_override=cloud)
    day[0] -= 3600.0
    assert images.list({}) == []
    assert identity.auth.projects() == []
    assert slept == []
    # The limiter itself is unchanged: it would sleep for an hour.
    with images._adapter._rate_semaphore:
        assert slept == [pytest.approx(3600.0)]
    session.session.close()
