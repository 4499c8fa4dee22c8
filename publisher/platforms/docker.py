"""A Docker registry: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import CA_BUNDLE, LOGIN, REGISTRY_IMAGE, Platform, uris

DOCKER = Platform(
    "docker",
    "Docker",
    (*uris("endpointUrl"), *LOGIN, *CA_BUNDLE),
    REGISTRY_IMAGE,
)
