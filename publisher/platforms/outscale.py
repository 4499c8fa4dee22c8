"""3DS Outscale: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import AMAZON, Platform, strings

OUTSCALE = Platform(
    "outscale",
    "Outscale",
    AMAZON,
    strings("bucket", "region"),
)
