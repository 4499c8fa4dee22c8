"""What a cloud platform is, for everything but its plugin: its elements, and the rules for them.

The service knows a cloud only by its `Platform`, which loads no SDK. A package describes its cloud in a module of its
own, and names it with an entry point of the group `image_publisher.platforms`. The elements are `Field`s, of which the
API's schema consists, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache, cached_property, lru_cache
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from publisher.core.certificates import check_bundle
from publisher.core.errors import InvalidRequest
from publisher.core.image_attributes import (
    PROPERTY_VALUE_MAX,
    attributes_of,
    check_taken,
    check_together,
    check_values,
)
from publisher.core.name_template import placeholders
from publisher.core.names import NAME_MAX, check_basic_plane, check_name
from publisher.core.proxies import DirectHosts, Proxy
from publisher.platforms.target_formats import API_ORDER, API_PLATFORMS

# Elements ----------------------------------------------------------------------------------------

Document = dict[str, object]
"""An object in memory: its values by element name. An unset value is None or absent.

Numbers are int, booleans bool, dateTimes aware datetime, objects a Document, and lists a list under the plural
wrapper's name. A polymorphic object has the name of its concrete type under TYPE_KEY.
"""

TYPE_KEY = "@type"


class Constant(dict[str, object]):
    """A Document that declares no type and that nobody changes. Its texts are kept."""

    def __init__(self, **values: object) -> None:
        super().__init__(values)
        self.texts: dict[object, str] = {}
        """By what writes it."""


PUBLISH_IMAGE = "publishImage"
CRED_ACCOUNT = "credAccount"
"""The abstract types to which each platform adds elements."""

STRING_LIMIT = 4096
"""Maximum length of a string in characters, unless its field has its own limit."""

CERTIFICATE_LIMIT = 64 * 1024
"""Maximum length of a certificate's (base64) content in characters."""


class Kind(Enum):
    """The type of an element's value."""

    STRING = "a string"
    URI = "a URI"
    BOOLEAN = "a boolean"
    INTEGER = "an integer"
    LONG = "a long integer"
    DATE_TIME = "a dateTime"
    OBJECT = "an object"
    POLYMORPHIC = "an object of one of several types"
    LIST = "a list"


@dataclass(frozen=True, slots=True)
class Field:
    """One element of an object type.

    type: for OBJECT, the name of the object type; for POLYMORPHIC, that of the abstract type.
    item: for LIST, the singular element inside the wrapper.
    required: an answer without it is a programming error. A required LIST is written even if it is empty.
    secret: never part of an answer or of an error message.
    limit: for STRING and URI, the maximum length in characters.
    minimum, maximum: for INTEGER and LONG, if narrower than 32 and 64 bits.
    json_only: an element of our own in a document of the API. XML answers leave it out, because clients bound to the
    API's schema would refuse it. Requests may have it in both formats.
    """

    name: str
    kind: Kind = Kind.STRING
    type: str = ""
    item: Field | None = None
    required: bool = False
    secret: bool = False
    limit: int = STRING_LIMIT
    minimum: int | None = None
    maximum: int | None = None
    json_only: bool = False

    @property
    def bounds(self) -> tuple[int, int]:
        """The minimum and the maximum of a number."""
        bits = 31 if self.kind is Kind.INTEGER else 63
        least = -(1 << bits) if self.minimum is None else self.minimum
        greatest = (1 << bits) - 1 if self.maximum is None else self.maximum
        return least, greatest


@dataclass(frozen=True)
class ObjectType:
    """A type of object. `fields` are in the order of answers, inherited ones first.

    abstract: the abstract type of which this is a concrete type ("publishImage", "credAccount"), or "".
    platform: the cloud platform that it belongs to, or "".
    """

    name: str
    fields: tuple[Field, ...]
    abstract: str = ""
    platform: str = ""

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields by element name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {field.name: position for position, field in enumerate(self.fields)}

    def named(self, names: Iterable[str]) -> list[Field]:
        """Return the fields that have one of these names, in their order."""
        at = self._positions
        positions = [at[name] for name in names if name in at]
        positions.sort()
        return [self.fields[position] for position in positions]


def strings(*names: str) -> tuple[Field, ...]:
    """Return fields for text."""
    return tuple(Field(name) for name in names)


def secrets(*names: str) -> tuple[Field, ...]:
    """Return fields for secret text, which no answer and no message may show."""
    return tuple(Field(name, secret=True) for name in names)


def uris(*names: str) -> tuple[Field, ...]:
    """Return fields for a URI: text, without the white space around it."""
    return tuple(Field(name, Kind.URI) for name in names)


def booleans(*names: str) -> tuple[Field, ...]:
    """Return fields for true or false."""
    return tuple(Field(name, Kind.BOOLEAN) for name in names)


def integers(*names: str, **bounds: Any) -> tuple[Field, ...]:
    """Return fields for a number of 32 bits, or between `minimum` and `maximum`."""
    return tuple(Field(name, Kind.INTEGER, **bounds) for name in names)


def longs(*names: str) -> tuple[Field, ...]:
    """Return fields for a number of 64 bits."""
    return tuple(Field(name, Kind.LONG) for name in names)


def date_times(*names: str) -> tuple[Field, ...]:
    """Return fields for a moment in time."""
    return tuple(Field(name, Kind.DATE_TIME) for name in names)


def an_object(name: str, type_name: str = "") -> tuple[Field, ...]:
    """Return a field for an object. By default its type has the same name."""
    return (Field(name, Kind.OBJECT, type_name or name),)


def polymorphic(name: str) -> tuple[Field, ...]:
    """Return a field for an object of one of the abstract type's concrete types."""
    return (Field(name, Kind.POLYMORPHIC, name),)


def a_list(wrapper: str, item: tuple[Field, ...], *, required: bool = False, secret: bool = False) -> tuple[Field, ...]:
    """Return a field for a list of `item`, inside an element named `wrapper`."""
    return (Field(wrapper, Kind.LIST, item=item[0], required=required, secret=secret),)


def json_only(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Return these fields as elements of our own, which answers have in JSON only."""
    return tuple(replace(each, json_only=True) for each in fields)


# Elements of several platforms -------------------------------------------------------------------

LOGIN = (*strings("login"), *secrets("password"))
CA_BUNDLE = (Field("caBundle", limit=CERTIFICATE_LIMIT),)
"""Ours, for accounts that name the addresses of their cloud. It is read and never written."""
AMAZON = (*strings("accessKeyId", "accountNumber", "keyPairName"), *secrets("secretAccessKeyId"))
PORT = integers("port", minimum=1, maximum=65535)
PROXY_URL = (*json_only((*uris("proxyUrl"), *strings("proxyLogin", "noProxy"))), *secrets("proxyPassword"))
"""Ours, for the same accounts: a proxy of their own that connections to their cloud go through."""
PROXY = (*strings("proxyHost"), *integers("proxyPort", minimum=1, maximum=65535))
REGISTRY_IMAGE = strings("namespace", "repositoryName", "tagName")
CERTIFICATES = (
    *uris("baseCertificatesUri"),
    *a_list("certificates", an_object("certificate"), secret=True),
    *a_list("certificateUris", uris("uri")),
)
"""An account with certificates extends an intermediate type of the API: they precede what the platform adds."""

# Elements of all platforms, all ours --------------------------------------------------------------

PROPERTY = (Field("name", limit=NAME_MAX), Field("value", limit=PROPERTY_VALUE_MAX))
IMAGE_ATTRIBUTES = json_only(
    (
        *a_list("properties", an_object("property")),
        *a_list("tags", (Field("tag", limit=NAME_MAX),)),
        *a_list("regions", (Field("region", limit=NAME_MAX),)),
        *booleans("hidden"),
        *a_list("sharedWith", (Field("project", limit=NAME_MAX),)),
        *integers("minDisk", "minRam", minimum=0),
        *booleans("protected"),
        *strings("visibility"),
    )
)
"""What an image can be given in a cloud. Each platform takes some of them."""
LIFETIME = json_only((*date_times("expires"), *strings("lineage", "older"), *integers("keep", minimum=1)))
"""How long images stay, for forms: the published one, and older ones of its lineage."""
NAME_TEMPLATE = (Field("nameTemplate", limit=NAME_MAX, json_only=True),)
"""In an account, for the images that are published with it; in a published image, for this one."""


# Platforms ---------------------------------------------------------------------------------------

NAME_LENGTH_MAX = 255
"""Characters: the limit of Glance and of most other clouds."""
_PROXY_NAMES = tuple(each.name for each in PROXY_URL)
_PROXY_ADDRESS = "proxyUrl"
SECRET_ROUTING = (
    *("login", "endpointUrl", "registryUrl", "hostname", "port", "proxyHost", "proxyPort", "caBundle"),
    *("proxyUrl", "proxyLogin", "noProxy"),
)
_KEPT, _KEPT_LENGTH_MAX = 1024, 255
"""Number of addresses whose verdict is kept, and the length of the longest one: callers send anything."""
_STRUCTURED = (Kind.OBJECT, Kind.POLYMORPHIC, Kind.LIST)


class SealedNames(frozenset[str]):
    """The names of the secrets that sealed ones may be: only a worker can see which of them were given."""


@dataclass(frozen=True, eq=False)
class Platform:
    """One cloud: the elements that it adds to requests, and the rules for them.

    Most clouds need only values here. A cloud with rules of its own overrides the methods that begin with `own_`, and
    `identity`.
    """

    name: str
    """`targetPlatform/type`, in lower case."""
    label: str
    """What people call it, and the end of its types' names: PublishImage<label>, CredAccount<label>."""
    account_fields: tuple[Field, ...] = ()
    target_fields: tuple[Field, ...] = ()
    """What it adds to an account and to a published image, in the order of the answers."""
    aliases: tuple[str, ...] = ()
    """Other names that callers know it by."""
    required: tuple[str, ...] = ()
    """The account's elements that a publish request needs, secrets included."""
    usual: tuple[str, ...] = ()
    """Elements that most accounts have, although others do without: in forms they follow the required ones."""
    addresses: tuple[str, ...] = ()
    """The account's elements that contain an http or https address."""
    names: tuple[str, ...] = ("displayName",)
    """Elements that contain a name, of at most `NAME_LENGTH_MAX` characters."""
    basic_plane: bool = False
    """Whether it refuses images whose name has characters of four bytes in UTF-8."""
    formats: tuple[str, ...] = ()
    """The image formats (`targetFormat/format/name`) of its own."""
    takes: tuple[str, ...] = ()
    """Formats that it takes although they belong to no cloud, such as `raw`."""
    secret_routing: tuple[str, ...] = SECRET_ROUTING
    """The account's elements that decide where its secrets are sent, for whom, and whom to trust there."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """What to say beside a field of a form, by the element's name."""
    choices: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """The values that an element may have, each with its label, by the element's name."""
    attributes: frozenset[str] = frozenset()
    """Names of the image attributes (`IMAGE_ATTRIBUTES`) that it takes. A request with another one is refused."""
    older: frozenset[str] = frozenset()
    """What its plugin can do with older images of a lineage, besides withdrawing them: `hide`, `rename`."""
    explored: Mapping[str, str] = field(default_factory=dict)
    """The target's elements that name something that an account can see: `projects`, `regions` or `networks`."""

    @property
    def extension(self) -> bool:
        """Whether the API does not know it."""
        return self.name not in API_PLATFORMS

    @property
    def publish_image_type(self) -> str:
        """The name of the concrete type of its published images."""
        return f"PublishImage{self.label}"

    @property
    def cred_account_type(self) -> str:
        """The name of the concrete type of its accounts."""
        return f"CredAccount{self.label}"

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The names of the secrets that an account may have."""
        return frozenset(each.name for each in self.account_fields if each.secret)

    @cached_property
    def open_names(self) -> tuple[str, ...]:
        """The names of an account's elements that are no secrets, in the order of the answers."""
        return tuple(each.name for each in self.all_account_fields if not each.secret)

    @cached_property
    def _open_name_set(self) -> frozenset[str]:
        return frozenset(self.open_names)

    @cached_property
    def all_account_fields(self) -> tuple[Field, ...]:
        """What it adds to an account, and what all platforms add."""
        return (*self.account_fields, *NAME_TEMPLATE)

    @cached_property
    def all_target_fields(self) -> tuple[Field, ...]:
        """What it adds to a published image, and what all platforms add."""
        return (*self.target_fields, *IMAGE_ATTRIBUTES, *NAME_TEMPLATE)

    @cached_property
    def target_names(self) -> frozenset[str]:
        """The names of what a publish request says about where an image goes, and what it is given there."""
        return frozenset(each.name for each in self.all_target_fields) | {"publishLocation"}

    @cached_property
    def attribute_fields(self) -> tuple[Field, ...]:
        """The image attributes that it takes."""
        return tuple(each for each in IMAGE_ATTRIBUTES if each.name in self.attributes)

    @cached_property
    def sealed_names(self) -> SealedNames:
        """The same names, for secrets that are sealed."""
        return SealedNames(self.secret_names)

    def account_parts(self, document: Document) -> tuple[dict[str, Any], dict[str, str]]:
        """Split a `credAccount` into its elements in clear and its secrets. Elements of no account are left out.

        An empty secret counts as missing: some clients send an account back without the secret that they never saw.
        """
        plain, secret = self._open_name_set, self.secret_names
        secrets = {name: str(value) for name, value in document.items() if name in secret and value}
        return {name: value for name, value in document.items() if name in plain and value is not None}, secrets

    def identity(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say which account of which cloud this is: what has its own limit, and is swept once.

        By default, all of the account that is no secret, except how to reach the cloud.
        """
        plain = [
            each.name
            for each in self.account_fields
            if not each.secret and each.kind not in _STRUCTURED and each.name not in _PROXY_NAMES
        ]
        return [account.get(name) or "" for name in plain]

    def image_service(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say where within that account the images are, such as a region."""
        return [str(target.get("publishLocation") or "")]

    def signs_in_as(self, account: Mapping[str, Any]) -> str:
        """Say for people to read who an account signs in as; empty if nothing says it."""
        return str(account.get("login") or "")

    def main_secret(self, account: Mapping[str, Any]) -> str:
        """Return the name of the secret that an account with these elements signs in with."""
        names = self.secret_names
        return "password" if "password" in names else min(names, default="password")

    def replaced(self, changes: Mapping[str, Any], secrets: Collection[str]) -> Collection[str]:
        """Return the elements that an account loses if it gets these changes and new secrets of these names.

        By default none: an element that a change leaves out stays.
        """
        return ()

    def account_addresses(self, account: dict[str, Any]) -> dict[str, Any]:
        """Return the addresses that an account names, by the path of the element that holds each."""
        names = (*self.addresses, _PROXY_ADDRESS)
        return {f"credAccount.{name}": account[name] for name in names if account.get(name)}

    def check_account(self, account: dict[str, Any], secrets: Collection[str]) -> None:
        """Check an account, whose elements are named as in a publish request. `secrets` are the names of those given.

        Raises `InvalidRequest` that names the element at fault.
        """
        for name in self.required:
            if not account.get(name) and name not in secrets:
                raise self.needed(name)
        self.own_credential_check(account, secrets)
        for path, address in self.account_addresses(account).items():
            check_address(path, str(address))
        for name in self.names:
            if text := str(account.get(name) or ""):
                self._check_name(name, text, f"credAccount.{name}")
        if bundle := account.get("caBundle"):
            check_bundle(str(bundle), "credAccount.caBundle")
        _check_proxy(account, secrets)
        if template := account.get("nameTemplate"):
            placeholders(str(template), "credAccount.nameTemplate")
        self.own_account_check(account)

    def check_target(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        """Check where an image is to go. Raises `InvalidRequest` that names the element at fault."""
        for name in self.names:
            if text := str(target.get(name) or ""):
                self._check_name(name, text, name)
        if template := target.get("nameTemplate"):
            placeholders(str(template), "nameTemplate")
            if target.get("displayName"):
                raise InvalidRequest("cannot be used together with displayName; give one of them", field="nameTemplate")
        if attributes := attributes_of(target):
            check_taken(attributes, self.attributes, self.name)
            check_values(attributes)
            check_together(attributes, target.get("publicImage"))
            self.own_attribute_check(attributes)
        self.own_target_check(account, target)

    def check_image(self, name: str, glance_objection: str | None) -> None:
        """Check an image before it is uploaded. Raises `InvalidRequest` if the cloud would refuse it in the end.

        `name` is what the message calls the image; `glance_objection` is why Glance would refuse it, if it would.
        """

    def needed(self, name: str) -> InvalidRequest:
        """Return the error for an account without an element that it needs."""
        return InvalidRequest(f"is needed to publish to {self.name}", field=f"credAccount.{name}")

    def own_credential_check(self, account: dict[str, Any], secrets: Collection[str]) -> None:
        """Check that an account has what it needs to sign in, if there are several ways. Raises `InvalidRequest`.

        `secrets` are the names of those given; `SealedNames` if the secrets were checked and sealed earlier.
        """

    def own_account_check(self, account: dict[str, Any]) -> None:
        """Check what only this cloud requires of an account. Raises `InvalidRequest`."""

    def own_target_check(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        """Check what only this cloud requires of a target. Raises `InvalidRequest`."""

    def own_attribute_check(self, attributes: dict[str, Any]) -> None:
        """Check what only this cloud requires of the image attributes in a request. Raises `InvalidRequest`."""

    def _check_name(self, name: str, text: str, path: str) -> None:
        if len(text) > NAME_LENGTH_MAX:
            raise InvalidRequest(f"is longer than {NAME_LENGTH_MAX} characters", field=path)
        check_name(text, path, trimmed=False)
        if name == "displayName" and self.basic_plane:
            check_basic_plane(text, path, self.name)


def _check_proxy(account: Mapping[str, Any], secrets: Collection[str]) -> None:
    """Check the elements that describe an account's own proxy. Raises `InvalidRequest`."""
    login, password = bool(account.get("proxyLogin")), "proxyPassword" in secrets
    if not account.get(_PROXY_ADDRESS):
        # Sealed secrets may include a proxy's password or not.
        unused = [name for name in ("proxyLogin", "noProxy") if account.get(name)]
        if password and not isinstance(secrets, SealedNames):
            unused.append("proxyPassword")
        if unused:
            raise InvalidRequest("is used only together with proxyUrl; leave it out", field=f"credAccount.{unused[0]}")
        return
    try:
        Proxy.of_elements(str(account[_PROXY_ADDRESS]))
    except ValueError as error:
        raise InvalidRequest(str(error), field=f"credAccount.{_PROXY_ADDRESS}") from None
    try:
        DirectHosts.parse(str(account.get("noProxy") or ""))
    except ValueError as error:
        raise InvalidRequest(str(error), field="credAccount.noProxy") from None
    if ":" in str(account.get("proxyLogin") or ""):  # RFC 7617, section 2
        raise InvalidRequest("cannot contain a colon", field="credAccount.proxyLogin")
    if login != password and not isinstance(secrets, SealedNames):
        lacking, given = ("proxyPassword", "proxyLogin") if login else ("proxyLogin", "proxyPassword")
        raise InvalidRequest(f"is needed with {given}", field=f"credAccount.{lacking}")


def check_address(field: str, address: str) -> None:
    """Check that a text is a URL of http or https without a password. Raises `InvalidRequest`."""
    # A password in an address must not stay in memory.
    find = (
        _fault_of_address if "@" not in address and len(address) <= _KEPT_LENGTH_MAX else _fault_of_address.__wrapped__
    )
    if fault := find(address):
        raise InvalidRequest(fault, field=field)


@lru_cache(_KEPT)
def _fault_of_address(address: str) -> str:
    """Return what is wrong with an address; "" if nothing is. Kept, because most requests name the same clouds."""
    try:
        parts = urlsplit(address)
        valid = parts.port != 0
    except ValueError:
        valid = False
    # `urlsplit` would leave out line breaks and keep blanks. A blank is the only white space that can be printed.
    if not valid or " " in address or not address.isprintable():
        return "is not a valid address"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an address such as https://cloud.example.com:5000"
    if "@" in parts.netloc:
        return "must not hold a login or password; give them in their own elements"
    return ""


# The platforms that this installation knows -------------------------------------------------------

logger = logging.getLogger(__name__)

PLUGIN_GROUP = "image_publisher.clouds"
"""The entry points of plugins. Only workers load these."""
PLATFORM_GROUP = "image_publisher.platforms"
"""The entry points of platforms: each leads to a `Platform` of the same name."""
_OURS = "publisher.platforms."


@cache
def installed() -> tuple[str, ...]:
    """Return the names of the platforms that a plugin is installed for. Loads no plugin."""
    return tuple(sorted({entry.name for entry in entry_points(group=PLUGIN_GROUP)}))


@cache
def known_platforms() -> tuple[Platform, ...]:
    """Return the platforms that packages describe: those of the API first, in its order, then the others by name.

    A platform that does not load, or takes a name of the API's, is logged and left out.
    """
    found: dict[str, Platform] = {}
    for entry in entry_points(group=PLATFORM_GROUP):
        if entry.name in API_PLATFORMS and not entry.value.startswith(_OURS):
            logger.error("the platform '%s' of %s is left out: the API defines that name", entry.name, entry.value)
            continue
        try:
            loaded = entry.load()
        except Exception:  # whatever another package raises, the other platforms are offered
            logger.exception("the platform '%s' is left out: %s does not load", entry.name, entry.value)
            continue
        if isinstance(loaded, Platform) and loaded.name == entry.name and loaded.label.isalnum():
            found[entry.name] = loaded
        else:
            logger.error(
                "the platform '%s' is left out: %s is not a Platform of that name with a label", entry.name, entry.value
            )
    return tuple(sorted(found.values(), key=lambda each: (API_ORDER.get(each.name, len(API_ORDER)), each.name)))


def find_platform(name: str) -> Platform | None:
    """Return the platform of that name or alias, in upper or lower case; None if there is none."""
    return _platforms_by_name().get(name.strip().lower())


@cache
def _platforms_by_name() -> dict[str, Platform]:
    found: dict[str, Platform] = {}
    for each in known_platforms():
        for name in (each.name, *each.aliases):
            found.setdefault(name, each)
    return found


def platform_of(name: str) -> Platform:
    """Return the platform of a plugin. If no package describes it, it has no elements and no rules."""
    return find_platform(name) or Platform(name, name)


def check_request(platform: str, account: dict[str, Any], secrets: Collection[str], target: dict[str, Any]) -> None:
    """Check all that a platform requires of a publish request. `secrets` are the names of those that are given.

    Raises `InvalidRequest` that names the element at fault.
    """
    check_account(platform, account, secrets)
    platform_of(platform).check_target(account, target)


def check_account(platform: str, account: dict[str, Any], secrets: Collection[str]) -> None:
    """Check that a platform can be published to, and all that it requires of an account. Raises `InvalidRequest`."""
    check_installed(platform)
    platform_of(platform).check_account(account, secrets)


def check_installed(platform: str) -> None:
    """Check that a plugin is installed for a platform. Raises `InvalidRequest`."""
    if platform not in installed():
        raise InvalidRequest(
            f"'{platform}' is not supported here; supported are {', '.join(installed())}",
            field="credAccount.targetPlatform.name",
        )


def cloud_account(platform: str, account: dict[str, Any], target: dict[str, Any]) -> str:
    """Return a digest of which account of which cloud this is: SHA-256, in hex."""
    parts = [platform, *platform_of(platform).identity(account, target)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def image_service(platform: str, account: dict[str, Any], target: dict[str, Any]) -> tuple[str, ...]:
    """Return which image service the images are in. One cloud account may have several."""
    return (
        cloud_account(platform, account, target),
        *(str(each) for each in platform_of(platform).image_service(account, target)),
    )
