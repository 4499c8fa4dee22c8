"""The use cases of stored cloud accounts: create and change. Secrets are sealed here; only workers open them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.platforms.platform import Platform, check_account, platform_of
from publisher.store import Store, StoredAccount


class SecretNeeded(InvalidRequest):
    """The secret must be given again."""


def create(
    store: Store,
    sealer: Sealer,
    *,
    owner: str,
    name: str,
    platform: str,
    fields: dict[str, Any],
    secrets: dict[str, str],
    policy: OutboundPolicy,
) -> StoredAccount:
    """Store a new account.

    Raises `InvalidRequest` that names the element at fault, and `Conflict` if the owner has an account of that name.
    """
    _check(platform, fields, secrets, policy)
    return store.accounts.add(
        owner=owner, name=name, platform=platform, fields=fields, sealed_secrets=sealer.seal(secrets)
    )


def change(
    store: Store,
    sealer: Sealer,
    present: StoredAccount,
    *,
    name: str | None,
    fields: dict[str, Any],
    secrets: dict[str, str],
    policy: OutboundPolicy,
) -> StoredAccount:
    """Change a stored account. What is not given stays; a field that is None is removed.

    If a credential is replaced by one of another kind, the fields that belong only to the old one are removed, too.

    Secrets are replaced together or kept together, because sealed ones cannot be opened here to add to them.
    Raises `InvalidRequest` that names the element at fault, `SecretNeeded` if secrets are kept but would go elsewhere,
    `NotFound`, and `Conflict` if the owner has another account of that name.
    """
    platform = platform_of(present.platform)
    fields = dict.fromkeys(platform.replaced(fields, secrets)) | fields
    _check(present.platform, present.fields | fields, secrets or platform.sealed_names, policy)
    if not secrets:
        _check_kept(platform, present.fields, fields)
    return store.accounts.update(
        present.owner,
        present.id,
        name=name,
        fields=fields,
        sealed_secrets=sealer.seal(secrets) if secrets else None,
    )


def free_name(store: Store, owner: str, platform: str) -> str:
    """Return a name for a new account: the platform's, with a number if the user has such an account already."""
    taken = {each.name for each in store.accounts.list(owner)}
    names = (platform if number == 1 else f"{platform}-{number}" for number in count(1))
    return next(name for name in names if name not in taken)


def _check(platform: str, fields: dict[str, Any], secrets: Collection[str], policy: OutboundPolicy) -> None:
    try:
        check_account(platform, fields, secrets)
        check_named(policy, platform_of(platform).account_addresses(fields))
    except InvalidRequest as error:
        at_fault = error.field or ""
        words = str(error).removeprefix(f"{at_fault}: ")
        raise InvalidRequest(words, field=at_fault.removeprefix("credAccount.")) from None


def _check_kept(platform: Platform, present: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuse to send kept secrets to another address or for another login."""
    if any(name in fields and _lines(fields[name]) != _lines(present.get(name)) for name in platform.secret_routing):
        name = platform.main_secret({**present, **fields})
        raise SecretNeeded("must be given again, because the address or the login changes", field=name)


def _lines(value: object) -> list[str]:
    """Return the lines of a value. None equals an empty text, and the line ends that forms send do not matter."""
    return [line.strip() for line in str(value or "").strip().splitlines()]
