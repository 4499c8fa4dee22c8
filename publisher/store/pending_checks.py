"""Checks: an intake adds one and waits for its result, and a worker claims it, tries it out and records the result.

A check creates nothing in a cloud and ends after seconds. So a check whose worker was killed is not repeated: its
caller gets an error, and may ask again. Its sealed secrets are erased when it ends, or a short time after it should
have ended.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, delete, func, insert, null, select, update

from publisher.core.cloud_check import CHECK_SECONDS_MAX, CheckKind, CheckResult
from publisher.core.errors import TooMany
from publisher.store.accounts import account_uri
from publisher.store.database import accounts, audit_change, checks, db_now, reading, writing

_OF_USER_MAX = 4
"""Number of checks that a user may wait for at a time: each keeps a thread of a worker busy."""
_KEPT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class NewCheck:
    """What a worker is to check."""

    kind: CheckKind
    owner: str
    platform: str
    account: dict[str, Any]
    """The account's elements, without its secrets."""
    sealed_secrets: bytes = field(repr=False)
    target: dict[str, Any]
    image_id: int | None = None
    """The image that is to be published, at a preflight."""
    account_id: int | None = None
    """The stored account that is tested."""


@dataclass(frozen=True, slots=True)
class ClaimedCheck:
    """A check that this worker has claimed."""

    id: int
    check: NewCheck
    age_seconds: float
    """How long ago it was added."""


class PendingChecks:
    """Checks that callers wait for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, new: NewCheck) -> int:
        """Commit a check for a worker, and return its id. Raises `TooMany` if the user waits for too many."""
        row = {
            "kind": new.kind,
            "owner": new.owner,
            "platform": new.platform,
            "account_id": new.account_id,
            "account": new.account,
            "sealed_secrets": new.sealed_secrets,
            "target": new.target,
            "image_id": new.image_id,
            "state": "waiting",
            "created": db_now(),
        }
        mine = checks.c.owner == new.owner, checks.c.finished.is_(None), _is_awaited()
        with writing(self._engine, durable=False) as connection:
            waiting = connection.execute(select(func.count()).select_from(checks).where(*mine)).scalar_one()
            if waiting >= _OF_USER_MAX:
                raise TooMany(f"{new.owner} waits for {waiting} checks already; wait for their results")
            id = connection.execute(insert(checks).values(row).returning(checks.c.id)).scalar_one()
            if new.kind is CheckKind.ACCOUNT and new.account_id is not None:
                audit_change(connection, "account.test", account_uri(new.owner, new.account_id))
        return int(id)

    def results(self, ids: Collection[int]) -> dict[int, CheckResult]:
        """Return the results of those checks that have ended."""
        query = select(checks.c.id, checks.c.result).where(checks.c.id.in_(ids), checks.c.state == "done")
        with reading(self._engine) as connection:
            return {row.id: CheckResult.from_json(row.result) for row in connection.execute(query)}

    def abandon(self, id: int) -> None:
        """Delete a check that nobody waits for any more. Has no effect on one that has ended."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(checks).where(checks.c.id == id, checks.c.state != "done"))

    # For a worker and the reconciler ------------------------------------------------------------------------------

    def claim(self, id: int) -> ClaimedCheck | None:
        """Claim a check that somebody waits for; None if nobody does, or a worker has claimed it already."""
        free = checks.c.id == id, checks.c.state == "waiting", _is_awaited()
        claimed = update(checks).where(*free).values(state="running")
        age = (db_now() - checks.c.created).label("age")
        with writing(self._engine, durable=False) as connection:
            row = connection.execute(claimed.returning(checks, age)).one_or_none()
        if row is None:
            return None
        new = NewCheck(
            *(CheckKind(row.kind), row.owner, row.platform, row.account, row.sealed_secrets, row.target),
            image_id=row.image_id,
            account_id=row.account_id,
        )
        return ClaimedCheck(row.id, new, row.age)

    def finish(self, claimed: ClaimedCheck, result: CheckResult) -> None:
        """Record a result, and erase the secrets. A tested account keeps what was found, for forms."""
        ended = {"state": "done", "result": result.as_json(), "sealed_secrets": None, "finished": db_now()}
        check = claimed.check
        with writing(self._engine, durable=False) as connection:
            connection.execute(update(checks).where(checks.c.id == claimed.id).values(ended))
            if check.account_id is not None and result.explored is not None:
                # Unless it was changed in the meantime: then it may sign in elsewhere.
                same = accounts.c.id == check.account_id, accounts.c.sealed_secrets == check.sealed_secrets
                explored = result.as_json()["explored"]
                connection.execute(update(accounts).where(*same).values(explored=explored))

    def purge(self) -> None:
        """Delete old checks, and erase the secrets of those whose worker or intake was killed."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(checks).where(checks.c.created < db_now() - _KEPT_SECONDS))
            overdue = checks.c.sealed_secrets.is_not(None), ~_is_awaited()
            connection.execute(update(checks).where(*overdue).values(sealed_secrets=null()))


def _is_awaited() -> Any:
    return checks.c.created > db_now() - CHECK_SECONDS_MAX
