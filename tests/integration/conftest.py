"""Fixtures for the tests against real servers."""

from collections.abc import Iterator

import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance


@pytest.fixture
def glance(devcloud: DevCloud) -> Iterator[Glance]:
    """What is in the real Glance; nothing afterwards."""
    glance = Glance(devcloud)
    yield glance
    for image in glance.images():
        glance.delete(image["id"])
