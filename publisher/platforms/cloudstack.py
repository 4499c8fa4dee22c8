"""Apache CloudStack: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import CA_BUNDLE
from publisher.platforms.fields import booleans, secrets, strings, uris
from publisher.platforms.platform import Platform

CLOUDSTACK = Platform(
    "cloudstack",
    "CloudStack",
    (*uris("endpointUrl"), *strings("publicApiKey"), *secrets("secretApiKey"), *CA_BUNDLE),
    (
        *strings("description", "displayName"),
        *booleans("featuredEnabled", "passwordEnabled", "publicImage"),
        *strings("zoneName"),
    ),
)
