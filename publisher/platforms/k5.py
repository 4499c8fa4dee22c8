"""Fujitsu K5: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import LOGIN
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

K5 = Platform(
    "k5",
    "K5",
    LOGIN,
    strings("keystoneDomain", "keystoneProject", "displayName"),
)
