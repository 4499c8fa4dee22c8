"""The use cases of checks: begin a preflight or a test of an account, and judge the result.

The intake loads no SDK of a cloud, so a worker makes each check while its caller waits.
"""

from __future__ import annotations

from collections.abc import Callable

from publisher.core.asking import Asking
from publisher.core.cloud_check import CheckKind, CheckResult
from publisher.core.errors import NotChecked, PreflightFailed, PublisherError
from publisher.core.ticket import Ticket
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import platform_of
from publisher.services.publishing import PublishRequest, checked
from publisher.store import IdempotencyKey, NewCheck, Store, StoredAccount


def begin_preflight(
    store: Store,
    sealer: Sealer,
    request: Callable[[], PublishRequest],
    key: IdempotencyKey | None = None,
    *,
    policy: OutboundPolicy,
    before_waiting: Callable[[], None] = lambda: None,
) -> Asking[int | None]:
    """Check a publish request as `publish` does, and return the id of a check for a worker.

    Returns None if the request has a ticket already, because it was sent before with the same key. Raises what
    `publish` raises, and `TooMany` if the user waits for too many checks.
    """
    try:
        found = yield from checked(store, sealer, request(), key, policy, before_waiting)
    except PublisherError:
        # As in `publish`: what has a ticket is not judged again.
        if key and store.idempotency_keys.ticket(key):
            return None
        raise
    if isinstance(found, Ticket):
        return None
    new, _ = found
    return store.checks.add(
        NewCheck(
            CheckKind.PREFLIGHT,
            owner=new.owner,
            platform=new.platform,
            account=new.account,
            sealed_secrets=new.sealed_secrets,
            target=new.target,
            image_id=new.image_id,
        )
    )


def begin_account_test(store: Store, account: StoredAccount) -> int:
    """Return the id of a check of a stored account, for a worker. Raises `TooMany`.

    What the account does not say itself, such as a domain, is taken from its last ticket, except what the test lists.
    """
    last = store.publications.last_of_account(account.id, account.owner)
    listed = platform_of(account.platform).explored
    target = {name: value for name, value in last.target.items() if name not in listed} if last else {}
    return store.checks.add(
        NewCheck(
            CheckKind.ACCOUNT,
            owner=account.owner,
            platform=account.platform,
            account=account.fields,
            sealed_secrets=account.sealed_secrets,
            target=target,
            account_id=account.id,
        )
    )


def require_passed(result: CheckResult) -> None:
    """Raise `PreflightFailed` if a publication would fail, and `NotChecked` if the cloud did not answer."""
    if result.ok:
        return
    if result.transient:
        raise NotChecked(f"{result.words}; no ticket was created, try again later")
    failed = PreflightFailed(f"{result.words}; no ticket was created")
    failed.field = result.element
    raise failed
