"""What a cloud platform is, for everything but its plugin: the service knows a cloud only by its `Platform`.

A `Platform` loads no SDK. A package describes its cloud in a module of its own, and names it with an entry point of the
group `image_publisher.platforms` (`publisher.platforms.registry`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from publisher.core.certificates import check_bundle
from publisher.core.errors import InvalidRequest
from publisher.core.names import check_basic_plane, check_name
from publisher.platforms.fields import Document, Field, Kind
from publisher.platforms.target_formats import API_PLATFORMS

NAME_LENGTH_MAX = 255
"""Characters: the limit of Glance and of most other clouds."""
SECRET_ROUTING = ("login", "endpointUrl", "registryUrl", "hostname", "port", "proxyHost", "proxyPort", "caBundle")
_STRUCTURED = (Kind.OBJECT, Kind.POLYMORPHIC, Kind.LIST)


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

    @property
    def secret_names(self) -> frozenset[str]:
        """The names of the secrets that an account may have."""
        return frozenset(each.name for each in self.account_fields if each.secret)

    def account_parts(self, document: Document) -> tuple[dict[str, Any], dict[str, str]]:
        """Split a `credAccount` into its elements in clear and its secrets. Elements of no account are left out.

        An empty secret counts as missing: some clients send an account back without the secret that they never saw.
        """
        given = {each.name: document[each.name] for each in self.account_fields if document.get(each.name) is not None}
        secret = self.secret_names
        secrets = {name: str(value) for name, value in given.items() if name in secret and value}
        return {name: value for name, value in given.items() if name not in secret}, secrets

    def identity(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say which account of which cloud this is: what has its own limit, and is swept once.

        By default, all of the account that is no secret.
        """
        plain = [each.name for each in self.account_fields if not each.secret and each.kind not in _STRUCTURED]
        return [account.get(name) or "" for name in plain]

    def image_service(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        """Say where within that account the images are, such as a region."""
        return [str(target.get("publishLocation") or "")]

    def account_addresses(self, account: dict[str, Any]) -> dict[str, Any]:
        """Return the addresses that an account names, by the path of the element that holds each."""
        return {f"credAccount.{name}": account[name] for name in self.addresses if account.get(name)}

    def check_account(self, account: dict[str, Any], secrets: Collection[str]) -> None:
        """Check an account, whose elements are named as in a publish request. `secrets` are the names of those given.

        Raises `InvalidRequest` that names the element at fault.
        """
        for name in self.required:
            if not account.get(name) and name not in secrets:
                raise InvalidRequest(f"is needed to publish to {self.name}", field=f"credAccount.{name}")
        for path, address in self.account_addresses(account).items():
            check_address(path, str(address))
        for name in self.names:
            if text := str(account.get(name) or ""):
                self._check_name(name, text, f"credAccount.{name}")
        if bundle := account.get("caBundle"):
            check_bundle(str(bundle), "credAccount.caBundle")
        self.own_account_check(account)

    def check_target(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        """Check where an image is to go. Raises `InvalidRequest` that names the element at fault."""
        for name in self.names:
            if text := str(target.get(name) or ""):
                self._check_name(name, text, name)
        self.own_target_check(account, target)

    def check_image(self, name: str, glance_objection: str | None) -> None:
        """Check an image before it is uploaded. Raises `InvalidRequest` if the cloud would refuse it in the end.

        `name` is what the message calls the image; `glance_objection` is why Glance would refuse it, if it would.
        """

    def own_account_check(self, account: dict[str, Any]) -> None:
        """Check what only this cloud requires of an account. Raises `InvalidRequest`."""

    def own_target_check(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        """Check what only this cloud requires of a target. Raises `InvalidRequest`."""

    def _check_name(self, name: str, text: str, path: str) -> None:
        if len(text) > NAME_LENGTH_MAX:
            raise InvalidRequest(f"is longer than {NAME_LENGTH_MAX} characters", field=path)
        check_name(text, path, trimmed=False)
        if name == "displayName" and self.basic_plane:
            check_basic_plane(text, path, self.name)


def check_address(field: str, address: str) -> None:
    """Check that a text is a URL of http or https without a password. Raises `InvalidRequest`."""
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
