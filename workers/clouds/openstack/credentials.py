"""What an account signs in to Keystone with, beside a login with its password.

An application credential, a token and a trust are each for one project, which they name themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keystoneauth1.access import AccessInfoV3
from keystoneauth1.exceptions import InvalidResponse
from keystoneauth1.identity import BaseIdentityPlugin, v3
from keystoneauth1.session import Session

from publisher.core.errors import PermanentCloudError, Reason
from publisher.core.ticket import Account
from publisher.platforms.openstack import APPLICATION_CREDENTIAL, PASSWORD, TOKEN

FIRST_DOMAIN = "default"
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class BoundCredential:
    """A credential that is for one project."""

    words: str
    """What messages call it."""
    advice: str
    """What to do if Keystone refuses it."""
    auth: Callable[[str], BaseIdentityPlugin] = field(repr=False)
    """Returns what signs in with it at Keystone's address, which includes the version."""
    by_login: bool = False
    """Whether it adds to a login with its password, which Keystone may refuse by itself."""


def bound_credential(account: Account, user_domain: str) -> BoundCredential | None:
    """Return the credential of an account; None if that is only a login with its password.

    Raises `PermanentCloudError` if the account has no secret for what it names: each ticket's elements are checked, but
    not whether the sealed secrets of a stored account belong to them.
    """
    fields, secrets = account.fields, account.secrets
    if fields.get("applicationCredentialId") or fields.get("applicationCredentialName"):
        return _application_credential(account, user_domain, _secret(account, APPLICATION_CREDENTIAL))
    if fields.get("trustId"):
        return _trust(account, user_domain, _secret(account, PASSWORD))
    if TOKEN in secrets and not fields.get("login"):
        return _token(secrets[TOKEN])
    _secret(account, PASSWORD)
    return None


def _secret(account: Account, name: str) -> str:
    if name not in account.secrets:
        raise PermanentCloudError(f"credAccount.{name}: is needed to sign in", reason=Reason.CREDENTIALS)
    return account.secrets[name]


def _application_credential(account: Account, user_domain: str, secret: str) -> BoundCredential:
    fields = account.fields
    elements = ["applicationCredentialId"]
    known: dict[str, Any] = {"application_credential_id": fields.get("applicationCredentialId")}
    if not known["application_credential_id"]:
        elements = ["applicationCredentialName", "login", "userDomain"]
        known = {"application_credential_name": fields["applicationCredentialName"], "username": fields.get("login")}
        known |= domain("user_domain", user_domain)
    named = fields.get(elements[0])
    to_check = ", ".join(f"credAccount.{each}" for each in elements)
    return BoundCredential(
        f"the application credential '{named}'",
        f"it may have expired or been deleted; check {to_check} and credAccount.applicationCredentialSecret, or create"
        " another one (openstack application credential create)",
        lambda url: v3.ApplicationCredential(url, application_credential_secret=secret, **known),
    )


def _trust(account: Account, user_domain: str, password: str) -> BoundCredential:
    login, trust = str(account.fields.get("login") or ""), str(account.fields["trustId"])
    return BoundCredential(
        f"the trust '{trust}'",
        f"it may have expired or been deleted, or be for another login than '{login}'; check credAccount.trustId",
        lambda url: v3.Password(
            url, username=login, password=password, trust_id=trust, **domain("user_domain", user_domain)
        ),
        by_login=True,
    )


def _token(token: str) -> BoundCredential:
    return BoundCredential(
        "the token",
        "it has expired or was revoked, or is of another cloud; give a new one as credAccount.token (openstack token"
        " issue), or use an application credential, which does not expire within hours",
        lambda url: GivenToken(url, token),
    )


class GivenToken(v3.base.BaseAuth):
    """Uses a token as it is. Keystone says what the token is for, and until when."""

    def __init__(self, auth_url: str, token: str) -> None:
        # There is nothing to sign in again with.
        super().__init__(auth_url, reauthenticate=False)
        self._token = token

    def get_auth_ref(self, session: Session) -> AccessInfoV3:
        headers = {"Accept": "application/json", "X-Auth-Token": self._token, "X-Subject-Token": self._token}
        answer = session.get(self.token_url, headers=headers, authenticated=False, log=False)
        try:
            body = answer.json()
        except ValueError:
            raise InvalidResponse(response=answer) from None
        if not isinstance(body, dict) or not isinstance(body.get("token"), dict):
            raise InvalidResponse(response=answer)
        return AccessInfoV3(body=body, auth_token=self._token)


def domain(prefix: str, domain: str) -> dict[str, Any]:
    """Return a domain as an argument of keystoneauth: as an id or as a name."""
    # The first domain has the id "default", whatever its name.
    return {f"{prefix}_id" if domain == FIRST_DOMAIN or is_id(domain) else f"{prefix}_name": domain}


def is_id(given: str | None) -> bool:
    """Return whether this has the form of a Keystone id, which few people use as a name."""
    return given is not None and _ID.fullmatch(given) is not None
