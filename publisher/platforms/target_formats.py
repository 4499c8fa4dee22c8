"""The targets of images: their types, and the numbers (`dbId`) and URIs of platforms, formats and target formats.

A number never changes, whatever plugins are installed, because clients store it. Tables hold the numbers of the API's
own names: only add to them. The number of any other name is computed from the name.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import quote

from publisher.core.uris import user_uri

DEFINED = datetime(2026, 11, 27, tzinfo=UTC)
"""When these tables were last changed: the `created` and `lastModified` of platforms and formats."""

_PLATFORMS = {
    "openstack": 101,
    "susecloud": 102,
    "cloudwatt": 103,
    "k5": 104,
    "aws": 105,
    "outscale": 106,
    "azure": 107,
    "google": 108,
    "docker": 109,
    "openshift": 110,
    "vsphere": 111,
    "vclouddirector": 112,
    "cloudstack": 113,
    "oracle": 114,
}
API_ORDER = {name: place for place, name in enumerate(_PLATFORMS)}
API_PLATFORMS = frozenset(_PLATFORMS)
"""The values of `targetPlatform/type` in the API: existing clients know this enumeration."""

_OTHER_TARGETS = {"kvm": 201, "hyper-v": 202, "raw": 203, "iso": 204}
"""Targets that are not clouds. An image for one of them can be published to each platform that accepts its format."""

_TARGETS = _PLATFORMS | _OTHER_TARGETS

_FORMATS = {
    "aws": 301,
    "azure": 302,
    "cloudstackova": 303,
    "cloudstackqcow2": 304,
    "cloudstackvhd": 305,
    "docker": 306,
    "esx": 307,
    "google": 308,
    "hyper-v": 309,
    "ISO": 310,
    "kvm": 311,
    "k5vmdk": 312,
    "lxc": 313,
    "openshift": 314,
    "openstackqcow2": 315,
    "openstackvdi": 316,
    "openstackvhd": 317,
    "openstackvmdk": 318,
    "outscale": 319,
    "oracleraw": 320,
    "ovf": 321,
    "PXE": 322,
    "qcow2": 323,
    "raw": 324,
}
API_FORMATS = frozenset(_FORMATS)
"""The values of `format/name` in the API: existing clients know this enumeration."""

CLOUD = "cloud"
_TYPES = {"kvm": "virtual", "hyper-v": "virtual", "raw": "virtual", "iso": "physical"}

_DERIVED_FROM = 1 << 32
_DERIVED_BITS = 48
"""A computed number stays exact in JSON (below 2^53) and is greater than every number in the tables."""


def platform_number(name: str) -> int:
    """Return the `dbId` of a `targetPlatform`."""
    return _PLATFORMS.get(name) or _derived(f"platform {name}")


def format_number(name: str) -> int:
    """Return the `dbId` of a `format`."""
    return _FORMATS.get(name) or _derived(f"format {name}")


def target_format_number(target: str, format: str) -> int:
    """Return the `dbId` of a `targetFormat`: a target in one of its formats."""
    if target in _TARGETS and format in _FORMATS:
        return _TARGETS[target] * 1000 + _FORMATS[format]
    return _derived(f"targetFormat {target} {format}")


def target_type(target: str) -> str:
    """Return the `targetFormat/type`: whether a target is a cloud or a kind of machine."""
    return _TYPES.get(target, CLOUD)


def target_platform_uri(login: str, platform: str) -> str:
    return f"{user_uri(login)}/targetplatforms/{quote(platform, safe='')}"


def target_format_uri(login: str, platform: str, format: str) -> str:
    return f"{user_uri(login)}/targetformats/{quote(platform, safe='')}/{quote(format, safe='')}"


def _derived(text: str) -> int:
    return _DERIVED_FROM + int.from_bytes(hashlib.sha256(text.encode()).digest()[: _DERIVED_BITS // 8], "big")
