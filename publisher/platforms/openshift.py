"""OpenShift: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import CA_BUNDLE, REGISTRY_IMAGE, Platform, secrets, uris

OPENSHIFT = Platform(
    "openshift",
    "OpenShift",
    (*uris("registryUrl"), *secrets("token"), *CA_BUNDLE),
    REGISTRY_IMAGE,
)
