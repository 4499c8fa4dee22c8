"""The cloud in memory: as little as a plugin can do. It takes no image attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from memory_cloud.publisher import CLOUD, MemoryPublisher
from publisher.core.ticket import Account, Target
from tests.contract.harness import Cloud, Harness, Obstacle


class MemoryHarness(Harness):
    def content(self, cloud_id: str) -> bytes:
        return CLOUD.images[cloud_id].content

    def attributes(self, cloud_id: str) -> Mapping[str, Any]:
        stored = CLOUD.images[cloud_id]
        return {"name": stored.name, "hidden": stored.hidden}


@contextmanager
def _memory(request: pytest.FixtureRequest) -> Iterator[Harness]:
    CLOUD.images.clear()
    account = Account("memory", {"login": "joe"}, {"password": "good"})
    yield MemoryHarness(MemoryPublisher, account, Target("memory", {"displayName": "contract"}))


CLOUDS = [Cloud("memory", _memory, {"no name": Obstacle("displayName", target={"displayName": ""})})]
