"""Amazon EC2: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import AMAZON, CERTIFICATES, Platform, strings

AWS = Platform(
    "aws",
    "Aws",
    (*CERTIFICATES, *AMAZON),
    strings("region"),
)
