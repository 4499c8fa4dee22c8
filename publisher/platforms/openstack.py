"""OpenStack, and the two platforms of the API that are OpenStack under another name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.core.image_attributes import ATTRIBUTES, ITEMS, PROPERTIES, REGIONS, SHARED_WITH, VISIBILITIES, item_path
from publisher.core.names import check_basic_plane
from publisher.platforms.platform import (
    CA_BUNDLE,
    LOGIN,
    PROXY_URL,
    SECRET_ROUTING,
    Platform,
    SealedNames,
    booleans,
    json_only,
    secrets,
    strings,
    uris,
)

INTERFACES = ("public", "internal", "admin")
"""The kinds of endpoints that OpenStack's catalog has for each service."""
ALLOW, REFUSE = "allow", "refuse"
"""What to do if the project has an image of the same name."""
IMPORT_METHODS = ("glance-direct", "web-download")
"""How the cloud can be made to import an image, instead of a plain upload."""
PASSWORD, APPLICATION_CREDENTIAL, TOKEN = "password", "applicationCredentialSecret", "token"
"""The secrets with which an account can sign in. It has exactly one of them."""
_APPLICATION_CREDENTIAL = ("applicationCredentialId", "applicationCredentialName")
"""The elements that say which application credential the secret belongs to: one of them."""
_BELONG_TO = {
    "login": (PASSWORD, APPLICATION_CREDENTIAL),
    "applicationCredentialId": (APPLICATION_CREDENTIAL,),
    "applicationCredentialName": (APPLICATION_CREDENTIAL,),
    "trustId": (PASSWORD,),
}
"""The secrets beside which an element has a meaning."""
_PROPERTIES_MAX, _ITEMS_MAX = 120, 128
"""Glance accepts 128 properties, tags and members each (`image_property_quota`, …). The publisher adds properties."""
_GLANCE_OWN = frozenset(
    {"id", "name", "status", "visibility", "protected", "checksum", "owner", "size", "virtual_size", "container_format",
     "disk_format", "created_at", "updated_at", "tags", "direct_url", "min_ram", "min_disk", "self", "file", "stores",
     "schema", "locations", "location", "deleted", "deleted_at"}
)  # fmt: skip
"""Names that Glance's records have themselves, or reserve."""
_OF_SNAPSHOTS = frozenset({"base_image_ref", "instance_uuid", "image_type"})
"""What Nova adds to its snapshots. The publisher takes an image that has it for somebody's copy."""
_OF_CLIENTS = frozenset({"backend"})
"""What python-glanceclient, which creates the records, takes for an argument of its own, beside some of the above."""
_OS_OPEN = frozenset(
    {"os_admin_user", "os_command_line", "os_distro", "os_require_quiesce", "os_secure_boot", "os_shutdown_timeout",
     "os_skip_agent_inject_files_at_boot", "os_skip_agent_inject_ssh", "os_type", "os_version"}
)  # fmt: skip
"""Properties that OpenStack defines for users, although it reserves the other names that begin with `os_`."""
_V2 = re.compile(r"/v2\.0/*$")
_ACCOUNT = (
    *uris("glanceUrl", "keystoneUrl"),
    *LOGIN,
    *CA_BUNDLE,
    *json_only(strings("userDomain", "interface", *_APPLICATION_CREDENTIAL)),
    *secrets(APPLICATION_CREDENTIAL, TOKEN),
    *json_only(strings("trustId")),
    *PROXY_URL,
)
"""All after the password are ours. Answers have those that are no secrets in JSON only, and the CA bundle never."""
_ARRIVAL = json_only(strings("store", "importMethod"))
"""How the image's bytes arrive in Glance. Ours, in JSON answers only, like what follows."""
WAIT_FOR_ACCEPTANCE = "waitForAcceptance"
_TARGET = (
    *strings("keystoneDomain", "keystoneProject", "displayName"),
    *booleans("publicImage"),
    *strings("tenantName"),
    *json_only(strings("ifNameTaken")),
    *_ARRIVAL,
    *json_only(booleans(WAIT_FOR_ACCEPTANCE)),
)
"""All after the tenant's name are ours: answers have them in JSON only."""


@dataclass(frozen=True, eq=False)
class OpenStack(Platform):
    required: tuple[str, ...] = ("keystoneUrl",)
    usual: tuple[str, ...] = ("login", "password")
    addresses: tuple[str, ...] = ("keystoneUrl", "glanceUrl")
    names: tuple[str, ...] = (
        *("displayName", "keystoneDomain", "keystoneProject", "tenantName", "login", "userDomain"),
        *_APPLICATION_CREDENTIAL,
        "trustId",
        "store",
    )
    attributes: frozenset[str] = frozenset(ATTRIBUTES) - {REGIONS}
    basic_plane: bool = True  # Glance answers 400 on any database: its `no_4byte_params`
    formats: tuple[str, ...] = ("openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk")
    takes: tuple[str, ...] = ("raw", "ISO")
    older: frozenset[str] = frozenset({"hide", "rename"})
    explored: Mapping[str, str] = field(
        default_factory=lambda: {"keystoneProject": "projects", "tenantName": "projects", "publishLocation": "regions"}
    )
    secret_routing: tuple[str, ...] = (
        *SECRET_ROUTING,
        *("userDomain", "keystoneUrl", "glanceUrl"),
        *_APPLICATION_CREDENTIAL,
        "trustId",
    )

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
        for name in (*_APPLICATION_CREDENTIAL, "trustId"):
            if account.get(name):
                parts += [name, account[name]]
        return parts

    def signs_in_as(self, account: Mapping[str, Any]) -> str:
        """Say which user, application credential or trust signs in."""
        for name in _APPLICATION_CREDENTIAL:
            if account.get(name):
                return f"application credential {account[name]}"
        return super().signs_in_as(account) or "owner of a token"

    def image_service(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say which of the cloud's image services: the one at that address, or that of a region."""
        return [str(account.get("glanceUrl") or ""), str(target.get("publishLocation") or "")]

    def main_secret(self, account: Mapping[str, Any]) -> str:
        """Return the secret that belongs to the other elements of the account."""
        if _has_application_credential(account):
            return APPLICATION_CREDENTIAL
        return PASSWORD if account.get("login") else TOKEN

    def replaced(self, changes: Mapping[str, Any], secrets: Collection[str]) -> Collection[str]:
        """Return the elements of the old credential, if the new one is of another kind."""
        given = set(secrets) & {PASSWORD, APPLICATION_CREDENTIAL, TOKEN}
        lost = {name for name, kinds in _BELONG_TO.items() if given and not set(kinds) & given}
        if APPLICATION_CREDENTIAL in secrets and changes.get("applicationCredentialId"):
            lost |= {"applicationCredentialName", "login"}
        if APPLICATION_CREDENTIAL in secrets and changes.get("applicationCredentialName"):
            lost.add("applicationCredentialId")
        return lost - set(changes)

    def own_credential_check(self, account: dict[str, Any], secrets: Collection[str]) -> None:
        """Check that the account has one kind of credential, and all that belongs to it."""
        if isinstance(secrets, SealedNames):
            # They were checked when they were sealed. A change of the elements beside them needs the secrets again.
            return
        given = [name for name in (PASSWORD, APPLICATION_CREDENTIAL, TOKEN) if name in secrets]
        _check_one_of(given)
        kind = given[0] if given else APPLICATION_CREDENTIAL if _has_application_credential(account) else PASSWORD
        for name, kinds in _BELONG_TO.items():
            if account.get(name) and kind not in kinds:
                raise InvalidRequest(
                    f"cannot be used with {kind}, only with {' or '.join(kinds)}; leave it out",
                    field=f"credAccount.{name}",
                )
        if kind == APPLICATION_CREDENTIAL:
            self._check_application_credential(account)
        if kind == PASSWORD and not account.get("login"):
            raise self.needed("login")
        if not given:
            raise self.needed(kind)
        only_v3 = "trustId" if account.get("trustId") else kind
        if only_v3 != PASSWORD and _is_v2(account):
            raise InvalidRequest("cannot be used with Keystone v2.0; use v3", field=f"credAccount.{only_v3}")

    def _check_application_credential(self, account: dict[str, Any]) -> None:
        known = [name for name in (*_APPLICATION_CREDENTIAL, "login") if account.get(name)]
        if known == ["applicationCredentialName"]:
            raise InvalidRequest(
                "is needed with applicationCredentialName: the user whose application credential it is",
                field="credAccount.login",
            )
        if known == ["applicationCredentialName", "login"]:
            return
        # An id says alone which application credential it is.
        _check_one_of(known)
        if known != ["applicationCredentialId"]:
            raise InvalidRequest(
                "is needed with applicationCredentialSecret; or give applicationCredentialName and login",
                field="credAccount.applicationCredentialId",
            )

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
        if target.get("importMethod") and target["importMethod"] not in IMPORT_METHODS:
            known = ", ".join(IMPORT_METHODS)
            raise InvalidRequest(f"'{target['importMethod']}' is unknown; use one of {known}", field="importMethod")
        if target.get(WAIT_FOR_ACCEPTANCE) and not target.get(SHARED_WITH):
            raise InvalidRequest(f"is used only together with {SHARED_WITH}; leave it out", field=WAIT_FOR_ACCEPTANCE)
        project = target.get("tenantName") or target.get("keystoneProject")
        if account.get("keystoneVersion") == "v2.0" and not project:
            raise InvalidRequest("is needed with Keystone v2.0", field="tenantName")
        if not project and self.main_secret(account) == TOKEN:
            # Nothing else tells two tokens apart, which may be for different projects.
            raise InvalidRequest("is needed with credAccount.token: the token's project", field="keystoneProject")
        if target.get("ifNameTaken") not in (None, "", ALLOW, REFUSE):
            raise InvalidRequest(f"'{target['ifNameTaken']}' is unknown; use {ALLOW} or {REFUSE}", field="ifNameTaken")

    def own_attribute_check(self, attributes: dict[str, Any]) -> None:
        """Check the properties' names, and what Glance's limits say."""
        for name, item in ITEMS.items():
            items = attributes.get(name, ())
            most = _PROPERTIES_MAX if name == PROPERTIES else _ITEMS_MAX
            if len(items) > most:
                raise InvalidRequest(f"has {len(items)} items; Glance takes at most {most}", field=name)
            for position, each in enumerate(items):
                path = item_path(name, position)
                for part, text in each.items() if item == "property" else [("", each)]:
                    check_basic_plane(text, f"{path}.{part}" if part else path, self.name)
        for position, each in enumerate(attributes.get(PROPERTIES, ())):
            if _is_reserved(str(each["name"])):
                raise InvalidRequest(
                    f"'{each['name']}' is reserved by {self.name} or by the publisher; use another name",
                    field=f"{item_path(PROPERTIES, position)}.name",
                )

    def check_image(self, name: str, glance_objection: str | None) -> None:
        if glance_objection:
            raise InvalidRequest(f"{name} cannot be published to {self.name}: {glance_objection}", field="imageUri")


def _is_reserved(name: str) -> bool:
    """Return whether users may not set a property of this name, in upper or lower case."""
    name = name.casefold()
    if name.startswith("os_"):
        return name not in _OS_OPEN
    return name in (_GLANCE_OWN | _OF_SNAPSHOTS | _OF_CLIENTS) or name.startswith("publisher_")


def _check_one_of(names: list[str]) -> None:
    if len(names) > 1:
        raise InvalidRequest(
            f"cannot be used together with {names[0]}; give one of them", field=f"credAccount.{names[1]}"
        )


def _has_application_credential(account: Mapping[str, Any]) -> bool:
    return any(account.get(name) for name in _APPLICATION_CREDENTIAL)


def _is_v2(account: Mapping[str, Any]) -> bool:
    version = account.get("keystoneVersion")
    return version == "v2.0" or (not version and _V2.search(str(account.get("keystoneUrl") or "")) is not None)


_HINTS = {
    "keystoneUrl": "URL of the cloud's Keystone, such as https://cloud.example.com:5000",
    "glanceUrl": "Only if the cloud's catalog has the wrong one",
    "userDomain": "Name or id of the user's domain, in Keystone v3. If empty: the domain of the project",
    "interface": "Which of the catalog's addresses of the image service to use",
    "applicationCredentialId": "Instead of login and password: the id of an application credential",
    "applicationCredentialName": "Instead of its id: the name of an application credential, beside its user's login",
    "applicationCredentialSecret": "Instead of the password: what belongs to the application credential",
    "token": "Instead of login and password: a token of the project, which is used until it expires",
    "proxyUrl": "Only if the cloud is behind a proxy of its own, such as http://proxy.example.com:3128",
    "proxyLogin": "If the proxy requires a login",
    "proxyPassword": "The password of the proxy's login",
    "noProxy": "Hosts, domains and networks of the cloud that are reached without this proxy, with commas between",
    "trustId": "Id of a trust that the login was given: it acts in the project of the trust",
    "keystoneDomain": "Name or id of the project's domain. If empty: the domain with the id default",
    "keystoneProject": "Name or id of the project. Can be empty if the login has only one project",
    "tenantName": "The project's name in Keystone v2.0",
    "ifNameTaken": "If the project has an image of this name, publish another one, or refuse",
    "publicImage": "All projects of the cloud may use it; many clouds allow this only to administrators",
    "sharedWith": "Names or ids of projects, one in each line. The image then has the visibility shared",
    "waitForAcceptance": "Wait until all projects that the image is shared with have accepted it",
    "hidden": "Lists of images leave it out, unless they ask for hidden ones",
    "store": "If the cloud has several stores for images: which one to use. If empty: the cloud's default",
    "importMethod": "glance-direct: send it, then have the cloud import it. web-download: the cloud downloads it",
}
_CHOICES = {
    "keystoneVersion": (("v3", "v3 (default)"), ("v2.0", "v2.0")),
    "interface": (("", "public (default)"), ("internal", "internal"), ("admin", "admin")),
    "visibility": (("", "private (default)"), *((each, each) for each in VISIBILITIES)),
    "ifNameTaken": (("", "allow (default)"), (REFUSE, REFUSE)),
    "importMethod": (("", "none (default)"), *((each, each) for each in IMPORT_METHODS)),
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
        *json_only(strings("ifNameTaken")),
        *_ARRIVAL,
        *json_only(booleans(WAIT_FOR_ACCEPTANCE)),
    ),
    hints=_HINTS,
    choices=_CHOICES,
)
