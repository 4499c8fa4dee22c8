"""OpenShift: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import CA_BUNDLE, REGISTRY_IMAGE
from publisher.platforms.fields import secrets, uris
from publisher.platforms.platform import Platform

OPENSHIFT = Platform(
    "openshift",
    "OpenShift",
    (*uris("registryUrl"), *secrets("token"), *CA_BUNDLE),
    REGISTRY_IMAGE,
)
