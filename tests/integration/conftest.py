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
    """What is in the real Glance; nothing afterwards."""
    glance = Glance(devcloud)
    yield glance
    glance.empty()


@pytest.fixture(scope="session")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The classes of a client that is bound to the API's schema as it is served."""
    with bound_classes(xsd.document(), tmp_path_factory.mktemp("bound")) as module:
        yield module
