"""VMware vSphere: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import LOGIN, PORT, PROXY, Platform, strings

VSPHERE = Platform(
    "vsphere",
    "VSphere",
    (*strings("hostname"), *LOGIN, *PORT, *PROXY),
    strings("datastore", "displayName", "esxHost", "network"),
    aliases=("vcenter",),
)
