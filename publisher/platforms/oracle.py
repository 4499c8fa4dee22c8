"""Oracle Cloud: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import LOGIN, Platform, strings

ORACLE = Platform(
    "oracle",
    "Oracle",
    (*LOGIN, *strings("domainName")),
    strings("computeEndPoint", "displayName"),
)
