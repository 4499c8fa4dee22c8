"""VMware Cloud Director: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import LOGIN, PORT, PROXY, Platform, strings

VCLOUDDIRECTOR = Platform(
    "vclouddirector",
    "VCloudDirector",
    (*strings("hostname", "organizationName"), *LOGIN, *PORT, *PROXY),
    strings("catalogName", "displayName", "vdcName"),
    aliases=("vcd",),
)
