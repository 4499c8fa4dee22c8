"""A Docker registry: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import CA_BUNDLE, LOGIN, REGISTRY_IMAGE
from publisher.platforms.fields import uris
from publisher.platforms.platform import Platform

DOCKER = Platform(
    "docker",
    "Docker",
    (*uris("endpointUrl"), *LOGIN, *CA_BUNDLE),
    REGISTRY_IMAGE,
)
