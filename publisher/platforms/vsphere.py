"""VMware vSphere: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import LOGIN, PORT, PROXY
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

VSPHERE = Platform(
    "vsphere",
    "VSphere",
    (*strings("hostname"), *LOGIN, *PORT, *PROXY),
    strings("datastore", "displayName", "esxHost", "network"),
    aliases=("vcenter",),
)
