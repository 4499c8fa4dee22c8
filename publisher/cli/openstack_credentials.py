"""The credential in an openrc file or a clouds.yaml: its kind, its elements in an account, and its secret.

The names are the options of keystoneauth's loaders: `application_credential_id` in a clouds.yaml, and
`OS_APPLICATION_CREDENTIAL_ID` as a variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from publisher.core.errors import InvalidRequest

PASSWORD, APPLICATION_CREDENTIAL, TOKEN = "password", "applicationCredentialSecret", "token"
"""The elements of the secrets."""
_AUTH_TYPES: Mapping[str, str] = {
    "password": PASSWORD,
    "v2password": PASSWORD,
    "v3password": PASSWORD,
    "token": TOKEN,
    "v3token": TOKEN,
    "v3applicationcredential": APPLICATION_CREDENTIAL,
}
"""The loaders of keystoneauth whose credentials an account can have."""
_ID, _NAME = "application_credential_id", "application_credential_name"
_SECRETS = {
    PASSWORD: ("password",),
    TOKEN: ("token", "auth_token"),
    APPLICATION_CREDENTIAL: ("application_credential_secret",),
}
_LOGIN = ("username", "user_name")
_CALLED = {PASSWORD: "password", TOKEN: "token", APPLICATION_CREDENTIAL: "secret of the application credential"}


class Entries(Protocol):
    """A description of a credential: the variables of a shell, or a cloud in a clouds.yaml."""

    def first(self, *names: str) -> str | None:
        """Return the value of the first of these names that has one."""


class OpenrcVariables:
    """The OS_… variables."""

    def first(self, *names: str) -> str | None:
        return next((value for name in names if (value := os.environ.get(f"OS_{name.upper()}"))), None)


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential of an account."""

    element: str
    """The name of the secret in an account."""
    fields: dict[str, str]
    """The elements beside it."""
    secret: str | None = field(default=None, repr=False)

    @property
    def variable(self) -> str:
        """The variable that may have the secret."""
        return f"OS_{_SECRETS[self.element][0].upper()}"


def secret_called(element: str) -> str:
    """Return what a prompt calls a secret."""
    return _CALLED.get(element, element)


def read_credential(options: Entries, entries: Entries, where: str) -> Credential:
    """Read a credential. The command's `options` go before the other `entries`, which are found at `where`.

    Raises `InvalidRequest` for a kind that an account cannot have.
    """

    def first(*names: str) -> str | None:
        return options.first(*names) or entries.first(*names)

    if first("system_scope"):
        raise InvalidRequest(
            f"{where} asks for system scope, but an image belongs to a project: remove system_scope (OS_SYSTEM_SCOPE)"
        )
    element = _element(options, first, where)
    fields: dict[str, str | None] = {}
    if element == APPLICATION_CREDENTIAL:
        fields["applicationCredentialId"] = first(_ID)
        # An id says alone which application credential it is.
        if not fields["applicationCredentialId"] or options.first(_NAME):
            fields |= {"applicationCredentialName": first(_NAME), "login": first(*_LOGIN)}
    elif element == PASSWORD:
        fields |= {"login": first(*_LOGIN), "trustId": first("trust_id")}
    # What the command line names is never left out: if it contradicts the rest, the account is refused.
    fields["login"] = fields.get("login") or options.first(*_LOGIN)
    known = {name: value for name, value in fields.items() if value}
    return Credential(element, known, entries.first(*_SECRETS[element]))


class _First(Protocol):
    def __call__(self, *names: str) -> str | None: ...


def _element(options: Entries, first: _First, where: str) -> str:
    """Return which secret the credential has: by its auth_type, or else as the `openstack` command infers it."""
    auth_type = first("auth_type", "auth_plugin")
    if auth_type:
        found = _AUTH_TYPES.get(auth_type.lower())
        if found is None:
            raise InvalidRequest(
                f"{where} signs in by {auth_type}; an account can have {', '.join(_AUTH_TYPES)}. Instead, create an"
                " application credential in the cloud (openstack application credential create NAME), and use it with"
                " auth_type v3applicationcredential"
            )
        return found
    if options.first(_ID, _NAME):
        return APPLICATION_CREDENTIAL
    if first(*_LOGIN):
        return PASSWORD
    if first(_ID, _NAME):
        return APPLICATION_CREDENTIAL
    return TOKEN if first(*_SECRETS[TOKEN]) else PASSWORD
