"""Fixtures for the tests against real servers."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from publisher.devcloud.cloud import DevCloud
from publisher.intake.wire import xsd
from tests.clouds import Glance
from tests.strict_client import bound_classes


@pytest.fixture
def glance(devcloud: DevCloud) -> Iterator[Glance]:
    """The images of the real Glance. They are deleted after the test."""
    glance = Glance(devcloud)
    yield glance
    glance.empty()


@pytest.fixture(scope="session")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The classes of a client that was generated from the API's schema."""
    with bound_classes(xsd.document(), tmp_path_factory.mktemp("bound")) as module:
        yield module
