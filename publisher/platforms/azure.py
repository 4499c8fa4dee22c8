"""Microsoft Azure: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import CA_BUNDLE
from publisher.platforms.fields import secrets, strings, uris
from publisher.platforms.platform import Platform

AZURE = Platform(
    "azure",
    "Azure",
    (
        *strings("tenantId", "subscriptionId", "applicationId"),
        *secrets("applicationKey"),
        *uris("endpointUrl"),
        *CA_BUNDLE,
    ),
    strings("storageAccount", "container", "resourceGroup", "blob", "displayName", "region"),
)
