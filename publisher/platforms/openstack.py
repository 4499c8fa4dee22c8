"""OpenStack, and the two platforms of the API that are OpenStack under another name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import CA_BUNDLE, LOGIN, SECRET_ROUTING, Platform, booleans, strings, uris

INTERFACES = ("public", "internal", "admin")
"""The kinds of endpoints that OpenStack's catalog has for each service."""
_ACCOUNT = (*uris("glanceUrl", "keystoneUrl"), *LOGIN, *CA_BUNDLE, *strings("userDomain", "interface"))
"""The last two are ours; answers have them in JSON only."""
_TARGET = (
    *strings("keystoneDomain", "keystoneProject", "displayName"),
    *booleans("publicImage"),
    *strings("tenantName"),
)


@dataclass(frozen=True, eq=False)
class OpenStack(Platform):
    required: tuple[str, ...] = ("keystoneUrl", "login", "password")
    addresses: tuple[str, ...] = ("keystoneUrl", "glanceUrl")
    names: tuple[str, ...] = ("displayName", "keystoneDomain", "keystoneProject", "tenantName", "login", "userDomain")
    basic_plane: bool = True  # Glance answers 400 on any database: its `no_4byte_params`
    formats: tuple[str, ...] = ("openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk")
    takes: tuple[str, ...] = ("raw", "ISO")
    secret_routing: tuple[str, ...] = (*SECRET_ROUTING, "userDomain", "keystoneUrl", "glanceUrl")

    def identity(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say which user of which Keystone, and which project: quotas and rate limits apply to these."""
        address = str(account.get("keystoneUrl") or "").lower().rstrip("/")
        address = address.removesuffix("/v3").removesuffix("/v2.0").rstrip("/")
        project = target.get("keystoneProject") or target.get("tenantName") or ""
        domain = target.get("keystoneDomain") or "default"
        parts = [address, account.get("login") or "", domain, project]
        # If none is given, the user's domain is the project's.
        if account.get("userDomain") not in (None, "", domain):
            parts.append(account["userDomain"])
        return parts

    def image_service(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say which of the cloud's image services: the one at that address, or that of a region."""
        return [str(account.get("glanceUrl") or ""), str(target.get("publishLocation") or "")]

    def own_account_check(self, account: dict[str, Any]) -> None:
        version = account.get("keystoneVersion")
        if version not in (None, "v2.0", "v3"):
            raise InvalidRequest(f"'{version}' is unknown; use v3 or v2.0", field="credAccount.keystoneVersion")
        if account.get("interface") and account["interface"] not in INTERFACES:
            known = ", ".join(INTERFACES)
            raise InvalidRequest(
                f"'{account['interface']}' is unknown; use one of {known}", field="credAccount.interface"
            )

    def own_target_check(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        project = target.get("tenantName") or target.get("keystoneProject")
        if account.get("keystoneVersion") == "v2.0" and not project:
            raise InvalidRequest("is needed with Keystone v2.0", field="tenantName")

    def check_image(self, name: str, glance_objection: str | None) -> None:
        if glance_objection:
            raise InvalidRequest(f"{name} cannot be published to {self.name}: {glance_objection}", field="imageUri")


_HINTS = {
    "keystoneUrl": "URL of the cloud's Keystone, such as https://cloud.example.com:5000",
    "glanceUrl": "Only if the cloud's catalog has the wrong one",
    "userDomain": "Name or id of the user's domain, in Keystone v3. If empty: the domain of the project",
    "interface": "Which of the catalog's addresses of the image service to use",
    "keystoneDomain": "Name or id of the project's domain. If empty: the domain with the id default",
    "keystoneProject": "Name or id of the project. Can be empty if the login has only one project",
    "tenantName": "The project's name in Keystone v2.0",
    "publicImage": "All projects of the cloud may use it; many clouds allow this only to administrators",
}
_CHOICES = {
    "keystoneVersion": (("v3", "v3 (default)"), ("v2.0", "v2.0")),
    "interface": (("", "public (default)"), ("internal", "internal"), ("admin", "admin")),
}

OPENSTACK = OpenStack(
    "openstack", "OpenStack", (*_ACCOUNT, *strings("keystoneVersion")), _TARGET, hints=_HINTS, choices=_CHOICES
)
SUSECLOUD = OpenStack("susecloud", "SuseCloud", _ACCOUNT, _TARGET, hints=_HINTS, choices=_CHOICES)
CLOUDWATT = OpenStack(
    "cloudwatt",
    "Cloudwatt",
    _ACCOUNT,
    (
        *strings("displayName", "keystoneDomain", "keystoneProject"),
        *booleans("publicImage"),
        *strings("tenantName"),
    ),
    hints=_HINTS,
    choices=_CHOICES,
)
