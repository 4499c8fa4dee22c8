"""Who is told of publications, by signed webhooks (Standard Webhooks, standardwebhooks.com)."""

from __future__ import annotations

import base64
import secrets

from publisher.core.errors import InvalidRequest
from publisher.core.uris import webhook_uri
from publisher.core.vault import Sealer, Vault
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.platforms.platform import check_address
from publisher.store import Store

SECRET_PREFIX = "whsec_"  # noqa: S105  # not one itself
_SECRET_BYTES = 32
_SEALED_AS = "notify"


def subscribe(
    store: Store, sealer: Sealer, policy: OutboundPolicy, login: str, url: str | None, *, new_secret: bool = False
) -> str | None:
    """Have a user told of all its publications at a URL; None leaves that as it is.

    Returns the secret that they are signed with where one is made: where the user has none, or another one is wanted.
    It is shown to nobody ever again. Raises `InvalidRequest`, `NotFound`.
    """
    if url is not None:
        check_receiver(policy, url, "url")
    has = store.users.notify(login)
    secret = make_secret() if new_secret or has.sealed_secret is None else None
    sealed = sealer.seal({_SEALED_AS: secret}) if secret else has.sealed_secret
    store.users.set_notify(login, url or has.url, sealed)
    return secret


def check_receiver(policy: OutboundPolicy, url: str, field: str) -> None:
    """Raises `InvalidRequest` for what is no URL to tell anything to, or one that is not connected to here."""
    check_address(field, url)
    check_named(policy, {field: url})


def check_signing(store: Store, login: str, field: str) -> None:
    """Raises `InvalidRequest` where a user has no secret: what is told in its name could not be signed."""
    if store.users.notify(login).sealed_secret is None:
        raise InvalidRequest(
            f"needs a secret to sign with, and '{login}' has none yet; make one by PUT {webhook_uri(login)}, or have it"
            " made by: publisher users notify",
            field=field,
        )


def make_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def open_secret(vault: Vault, sealed: bytes) -> str:
    """Raises `ConfigurationError` where no key opens it."""
    return vault.open(sealed)[_SEALED_AS]
