"""What a platform offers to do with older images of a lineage, its plugin can do."""

import pytest

from publisher.platforms.platform import installed, platform_of
from workers.clouds import plugin
from workers.clouds.base import CloudPublisher


@pytest.mark.parametrize("platform", installed())
def test_a_plugin_can_do_what_its_platform_offers(platform: str) -> None:
    can = {name for name in ("hide", "rename") if getattr(plugin(platform), name) is not getattr(CloudPublisher, name)}
    assert platform_of(platform).older == can
