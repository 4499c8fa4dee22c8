"""Fujitsu K5: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import LOGIN, Platform, strings

K5 = Platform(
    "k5",
    "K5",
    LOGIN,
    strings("keystoneDomain", "keystoneProject", "displayName"),
)
