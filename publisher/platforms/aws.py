"""Amazon EC2: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import AMAZON, CERTIFICATES
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

AWS = Platform(
    "aws",
    "Aws",
    (*CERTIFICATES, *AMAZON),
    strings("region"),
)
