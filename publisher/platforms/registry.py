"""The platforms that this installation knows, each found by an entry point, and those that it can publish to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import Platform
from publisher.platforms.target_formats import API_ORDER, API_PLATFORMS

logger = logging.getLogger(__name__)

PLUGIN_GROUP = "image_publisher.clouds"
"""The entry points of plugins. Only workers load these."""
PLATFORM_GROUP = "image_publisher.platforms"
"""The entry points of platforms: each leads to a `Platform` of the same name."""
_OURS = "publisher.platforms."


@cache
def installed() -> tuple[str, ...]:
    """Return the names of the platforms that a plugin is installed for. Loads no plugin."""
    return tuple(sorted({entry.name for entry in entry_points(group=PLUGIN_GROUP)}))


def known_platforms() -> tuple[Platform, ...]:
    """Return the platforms that packages describe: those of the API first, in its order, then the others by name.

    A platform that does not load, or takes a name of the API's, is logged and left out.
    """
    found: dict[str, Platform] = {}
    for entry in entry_points(group=PLATFORM_GROUP):
        if entry.name in API_PLATFORMS and not entry.value.startswith(_OURS):
            logger.error("the platform '%s' of %s is left out: the API defines that name", entry.name, entry.value)
            continue
        try:
            loaded = entry.load()
        except Exception:  # whatever another package raises, the other platforms are offered
            logger.exception("the platform '%s' is left out: %s does not load", entry.name, entry.value)
            continue
        if isinstance(loaded, Platform) and loaded.name == entry.name and loaded.label.isalnum():
            found[entry.name] = loaded
        else:
            logger.error(
                "the platform '%s' is left out: %s is no Platform of that name with a label", entry.name, entry.value
            )
    return tuple(sorted(found.values(), key=lambda each: (API_ORDER.get(each.name, len(API_ORDER)), each.name)))


PLATFORMS = known_platforms()

_BY_NAME = {name: platform for platform in PLATFORMS for name in (platform.name, *platform.aliases)}


def find_platform(name: str) -> Platform | None:
    """Return the platform of that name or alias, in upper or lower case; None if there is none."""
    return _BY_NAME.get(name.strip().lower())


def platform_of(name: str) -> Platform:
    """Return the platform of a plugin. If no package describes it, it has no elements and no rules."""
    return find_platform(name) or Platform(name, name)


def check_request(platform: str, account: dict[str, Any], secrets: Collection[str], target: dict[str, Any]) -> None:
    """Check all that a platform requires of a publish request. `secrets` are the names of those that are given.

    Raises `InvalidRequest` that names the element at fault.
    """
    check_account(platform, account, secrets)
    platform_of(platform).check_target(account, target)


def check_account(platform: str, account: dict[str, Any], secrets: Collection[str]) -> None:
    """Check that a platform can be published to, and all that it requires of an account. Raises `InvalidRequest`."""
    check_installed(platform)
    platform_of(platform).check_account(account, secrets)


def check_installed(platform: str) -> None:
    """Check that a plugin is installed for a platform. Raises `InvalidRequest`."""
    if platform not in installed():
        raise InvalidRequest(
            f"'{platform}' is not supported here; supported are {', '.join(installed())}",
            field="credAccount.targetPlatform.name",
        )


def cloud_account(platform: str, account: dict[str, Any], target: dict[str, Any]) -> str:
    """Return a digest of which account of which cloud this is: SHA-256, in hex."""
    parts = [platform, *platform_of(platform).identity(account, target)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def image_service(platform: str, account: dict[str, Any], target: dict[str, Any]) -> tuple[str, ...]:
    """Return which image service the images are in. One cloud account may have several."""
    return (
        cloud_account(platform, account, target),
        *(str(each) for each in platform_of(platform).image_service(account, target)),
    )
