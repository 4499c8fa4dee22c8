"""What each platform asks of a publish request: checked by the intake, before any worker sees it.

Names are the elements of the wire contract. A platform is offered where a plugin for it is installed. A package with a
plugin for a platform that is not in the table here describes it with an entry point of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal
from urllib.parse import urlsplit

from publisher.core.certificates import check_bundle
from publisher.core.errors import InvalidRequest
from publisher.core.names import check_basic_plane, check_name
from publisher.platforms.target_formats import API_PLATFORMS

logger = logging.getLogger(__name__)

INTERFACES = ("public", "internal", "admin")
"""Kinds of endpoints that OpenStack's catalog has for each service."""
ENTRY_POINT_GROUP = "image_publisher.clouds"
DEFINITION_GROUP = "image_publisher.platforms"
"""Of the entry points by which packages describe platforms that are not in the API: each leads to a `Platform`."""
NAME_LENGTH_MAX = 255
"""Characters: the limit of Glance and of most other clouds."""
SECRETS_GO_BY = (
    "login", "userDomain", "keystoneUrl", "glanceUrl", "endpointUrl", "registryUrl", "hostname", "port", "proxyHost",
    "proxyPort", "caBundle",
)  # fmt: skip
"""Elements of an account, of any platform, that tell where its secrets are sent, for whom, and whom to trust there."""


@dataclass(frozen=True, slots=True)
class PlatformElement:
    """An element that a platform adds to its accounts or its published images. A secret is stored encrypted."""

    name: str
    kind: Literal["string", "uri", "boolean", "integer", "secret"] = "string"


@dataclass(frozen=True, slots=True)
class Platform:
    """Elements that a request must have, and those of the account that hold an http or https address."""

    account: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ("displayName",)
    """Of the account or of the image; no longer than `NAME_LENGTH_MAX`."""
    basic_plane: bool = False
    """Whether it takes no name with characters of four bytes in UTF-8. (Glance answers 400, on any database: its
    `no_4byte_params`.)"""
    formats: tuple[str, ...] = ()
    """Names of the image formats of its own."""
    takes: tuple[str, ...] = ()
    """Names of the formats that it takes although they are no cloud's own, such as `raw`."""
    label: str = ""
    """Names its types (`PublishImage<label>`), where the API does not know the platform."""
    account_elements: tuple[PlatformElement, ...] = ()
    target_elements: tuple[PlatformElement, ...] = ()
    """Of an account and of a published image, where the API does not know the platform."""


_OPENSTACK = Platform(
    account=("keystoneUrl", "login", "password"),
    addresses=("keystoneUrl", "glanceUrl"),
    names=("displayName", "keystoneDomain", "keystoneProject", "tenantName", "login", "userDomain"),
    basic_plane=True,
    formats=("openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk"),
    takes=("raw", "ISO"),
)

PLATFORMS: dict[str, Platform] = {
    "openstack": _OPENSTACK,
    "susecloud": _OPENSTACK,
    "cloudwatt": _OPENSTACK,
}
"""Those of this distribution. `definition` knows the platforms of other packages, too."""


@cache
def installed() -> tuple[str, ...]:
    """The platforms that a plugin is installed for. Reads their names; loads none."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


@cache
def brought() -> Mapping[str, Platform]:
    """The platforms that other packages describe, by name. One that does not load is logged and left out."""
    found: dict[str, Platform] = {}
    for entry in sorted(entry_points(group=DEFINITION_GROUP), key=lambda each: each.name):
        if entry.name in API_PLATFORMS:
            logger.error("the platform '%s' of %s is left out: the API defines that name", entry.name, entry.value)
            continue
        try:
            loaded = entry.load()
        except Exception:  # whatever a package of somebody else's raises, the other platforms are offered
            logger.exception("the platform '%s' is left out: %s does not load", entry.name, entry.value)
            continue
        if isinstance(loaded, Platform) and loaded.label.isalnum():
            found[entry.name] = loaded
        else:
            logger.error("the platform '%s' is left out: %s is no Platform with a label", entry.name, entry.value)
    return found


def definition(platform: str) -> Platform:
    """What is known of a platform: nothing, where no package describes it."""
    return PLATFORMS.get(platform) or brought().get(platform) or Platform()


def formats(platform: str) -> tuple[str, ...]:
    """Names of the image formats (`targetFormat/format/name`) of the platform's own."""
    return definition(platform).formats


def taken(platform: str) -> tuple[str, ...]:
    """Names of the formats that the platform takes although they are no cloud's own."""
    return definition(platform).takes


def check_request(platform: str, account: dict[str, Any], secrets: Collection[str], target: dict[str, Any]) -> None:
    """Check all that a platform requires of a publish request. `secrets` are the names of those that are there.

    Raises `InvalidRequest` that names the element at fault.
    """
    check_account(platform, account, secrets)
    asked = definition(platform)
    for name in asked.names:
        if text := str(target.get(name) or ""):
            _check_name(asked, platform, name, text, name)
    if asked is _OPENSTACK:
        _check_target(account, target)


def check_account(platform: str, account: dict[str, Any], secrets: Collection[str]) -> None:
    """Check all that a platform requires of an account. `secrets` are the names of those that are there.

    Raises `InvalidRequest` that names the element at fault, as in a publish request.
    """
    if platform not in installed():
        raise InvalidRequest(
            f"'{platform}' is not supported here; supported are {', '.join(installed())}",
            field="credAccount.targetPlatform.name",
        )
    asked = definition(platform)
    for name in asked.account:
        if not account.get(name) and name not in secrets:
            raise InvalidRequest(f"is needed to publish to {platform}", field=f"credAccount.{name}")
    for name in asked.addresses:
        if account.get(name):
            check_address(f"credAccount.{name}", str(account[name]))
    for name in asked.names:
        if text := str(account.get(name) or ""):
            _check_name(asked, platform, name, text, f"credAccount.{name}")
    if bundle := account.get("caBundle"):
        check_bundle(str(bundle), "credAccount.caBundle")
    if asked is _OPENSTACK:
        _check_openstack_account(account)


def _check_name(asked: Platform, platform: str, name: str, text: str, path: str) -> None:
    if len(text) > NAME_LENGTH_MAX:
        raise InvalidRequest(f"is longer than {NAME_LENGTH_MAX} characters", field=path)
    check_name(text, path, trimmed=False)
    if name == "displayName" and asked.basic_plane:
        check_basic_plane(text, path, platform)


def check_image(platform: str, name: str, glance_objection: str | None) -> None:
    """Raises `InvalidRequest` for an image that the platform would refuse once it has all its bytes.

    `name` is what the image is called in the message, `glance_objection` that of the image, or of its file.
    """
    if glance_objection and PLATFORMS.get(platform) is _OPENSTACK:
        raise InvalidRequest(f"{name} cannot be published to {platform}: {glance_objection}", field="imageUri")


def addresses(platform: str, account: dict[str, Any]) -> dict[str, Any]:
    """The addresses that an account names, by the path of the element that holds each."""
    named = definition(platform).addresses
    return {f"credAccount.{name}": account[name] for name in named if account.get(name)}


def cloud_account(platform: str, account: dict[str, Any], target: dict[str, Any]) -> str:
    """Which account of which cloud, and which project of it: SHA-256, in hex."""
    address = str(account.get("keystoneUrl") or "").lower().rstrip("/")
    address = address.removesuffix("/v3").removesuffix("/v2.0").rstrip("/")
    project = target.get("keystoneProject") or target.get("tenantName") or ""
    domain = target.get("keystoneDomain") or "default"
    parts = [platform, address, account.get("login") or "", domain, project]
    # Where none is given, the user's domain is the project's.
    if account.get("userDomain") not in (None, "", domain):
        parts.append(account["userDomain"])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def image_service(platform: str, account: dict[str, Any], target: dict[str, Any]) -> tuple[str, str, str]:
    """Which image service the images are in: there may be several within one cloud account."""
    where = str(account.get("glanceUrl") or ""), str(target.get("publishLocation") or "")
    return cloud_account(platform, account, target), *where


def _check_openstack_account(account: dict[str, Any]) -> None:
    version = account.get("keystoneVersion")
    if version not in (None, "v2.0", "v3"):
        raise InvalidRequest(f"'{version}' is unknown; use v3 or v2.0", field="credAccount.keystoneVersion")
    if account.get("interface") and account["interface"] not in INTERFACES:
        known = ", ".join(INTERFACES)
        raise InvalidRequest(f"'{account['interface']}' is unknown; use one of {known}", field="credAccount.interface")


def _check_target(account: dict[str, Any], target: dict[str, Any]) -> None:
    if account.get("keystoneVersion") == "v2.0" and not (target.get("tenantName") or target.get("keystoneProject")):
        raise InvalidRequest("is needed with Keystone v2.0", field="tenantName")


def check_address(field: str, address: str) -> None:
    """Raises `InvalidRequest` for what is no URL of http or https, or holds a password."""
    try:
        parts = urlsplit(address)
        valid = parts.port != 0
    except ValueError:
        valid = False
    # `urlsplit` would leave out line breaks and keep blanks.
    if not valid or any(each.isspace() or not each.isprintable() for each in address):
        raise InvalidRequest("is not a valid address", field=field)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest("must be an address such as https://cloud.example.com:5000", field=field)
    if "@" in parts.netloc:
        raise InvalidRequest("must not hold a login or password; give them in their own elements", field=field)
