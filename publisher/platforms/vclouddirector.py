"""VMware Cloud Director: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import LOGIN, PORT, PROXY
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

VCLOUDDIRECTOR = Platform(
    "vclouddirector",
    "VCloudDirector",
    (*strings("hostname", "organizationName"), *LOGIN, *PORT, *PROXY),
    strings("catalogName", "displayName", "vdcName"),
    aliases=("vcd",),
)
