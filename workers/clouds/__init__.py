"""The cloud plugins, found by entry point (group `image_publisher.clouds`) and loaded when first used."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from publisher.core.errors import ConfigurationError
from publisher.platforms.platform import PLUGIN_GROUP
from workers.clouds.base import CloudPublisher


@cache
def plugin(platform: str) -> type[CloudPublisher]:
    """Load the plugin for a platform. Raises `ConfigurationError` if this worker has none."""
    for entry in entry_points(group=PLUGIN_GROUP, name=platform):
        loaded: type[CloudPublisher] = entry.load()
        return loaded
    raise ConfigurationError(f"this worker has no plugin for the platform '{platform}'")
