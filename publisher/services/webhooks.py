"""Users' webhooks: their URLs and the secrets that sign the notifications (Standard Webhooks, standardwebhooks.com)."""

from __future__ import annotations

import base64
import secrets

from publisher.core.errors import InvalidRequest
from publisher.core.vault import Sealer, Vault
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.platforms.platform import check_address
from publisher.store import Store, webhook_uri

SECRET_PREFIX = "whsec_"  # noqa: S105  # not a secret
_SECRET_BYTES = 32
_SEALED_AS = "notify"


def subscribe(
    store: Store, sealer: Sealer, policy: OutboundPolicy, login: str, url: str | None, *, new_secret: bool = False
) -> str | None:
    """Set the URL of a user's webhook; None keeps the present one.

    Returns a new secret if the user has none or `new_secret` is set, otherwise None. It cannot be shown again.
    Raises `InvalidRequest`, `NotFound`.
    """
    if url is not None:
        check_receiver(policy, url, "url")
    has = store.users.notify(login)
    secret = make_secret() if new_secret or has.sealed_secret is None else None
    sealed = sealer.seal({_SEALED_AS: secret}) if secret else has.sealed_secret
    store.users.set_notify(login, url or has.url, sealed)
    return secret


def check_receiver(policy: OutboundPolicy, url: str, field: str) -> None:
    """Check the URL of a webhook. Raises `InvalidRequest` if it is invalid or may not be connected to."""
    check_address(field, url)
    check_named(policy, {field: url})


def no_signing_secret(login: str, field: str) -> InvalidRequest:
    """Return the error for a webhook of a user who has no secret to sign notifications with."""
    return InvalidRequest(
        f"needs a secret to sign notifications with, and '{login}' has none; create one by PUT {webhook_uri(login)},"
        " or run: publisher users notify",
        field=field,
    )


def make_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def open_secret(vault: Vault, sealed: bytes) -> str:
    """Open a sealed secret. Raises `ConfigurationError` if no key opens it."""
    return vault.open(sealed)[_SEALED_AS]
