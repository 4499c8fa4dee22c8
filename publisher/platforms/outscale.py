"""3DS Outscale: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import AMAZON
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

OUTSCALE = Platform(
    "outscale",
    "Outscale",
    AMAZON,
    strings("bucket", "region"),
)
