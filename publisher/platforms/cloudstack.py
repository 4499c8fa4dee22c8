"""Apache CloudStack: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import CA_BUNDLE, Platform, booleans, secrets, strings, uris

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
