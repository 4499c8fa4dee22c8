"""Microsoft Azure: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import CA_BUNDLE, Platform, secrets, strings, uris

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
