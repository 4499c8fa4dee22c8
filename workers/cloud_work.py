"""Work on a claimed ticket that needs its cloud: sign in, keep the journal, delete what the ticket has made.

Knows no Celery and no cloud SDK.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from publisher.core.errors import CloudError, ConfigurationError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, CloudRef, State, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.store import Claim, Store
from publisher.telemetry import tracing
from workers.bounded import BoundedCloud
from workers.clouds import plugin
from workers.clouds.base import Tags, Timeouts
from workers.lease import TicketLease
from workers.scratch import Scratch

Result = TypeVar("Result")


class TicketJournal:
    """The list of what a ticket has created, or may have created, in a cloud. It is written under the ticket's lease.

    Deletions can be recorded even after a cancel. While the lease holds, nobody else writes the list, so it is read
    again only after a write.
    """

    def __init__(self, store: Store, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        # Only those who have claimed the ticket write the list: at the first claim it is empty.
        self._entries: Sequence[CloudRef] | None = () if claim.token == 1 else None

    def entries(self) -> Sequence[CloudRef]:
        if self._entries is None:
            self._entries = self._store.tickets.journal(self._claim.ticket.id)
        return self._entries

    def plan(self, cloud_id: str) -> None:
        with self._writing():
            self._store.leases.plan(self._claim, cloud_id)

    def present(self, cloud_id: str) -> None:
        self._mark(cloud_id, "present")

    def condemn(self, cloud_id: str) -> None:
        self._mark(cloud_id, "condemned")

    def gone(self, cloud_id: str) -> None:
        self._mark(cloud_id, "gone")

    def _mark(self, cloud_id: str, state: str) -> None:
        with self._writing():
            self._store.leases.mark(self._claim, cloud_id, state)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        finally:
            # Also if it failed: the database may have written it nevertheless.
            self._entries = None


class CloudWork(ABC):
    """Work on one claimed ticket. Subclasses turn exceptions into outcomes; only their type decides."""

    waiting: Sequence[int] = ()
    """Known at the end: the tickets that wait for the slot that this one has left."""

    def __init__(
        self, store: Store, vault: Vault, settings: Settings, policy: OutboundPolicy, lease: TicketLease
    ) -> None:
        self._store = store
        self._leases = store.leases
        self._vault = vault
        self._settings = settings
        self._lease = lease
        self._claim = lease.claim
        self._ticket = lease.claim.ticket
        self._journal = TicketJournal(store, lease.claim)
        self._policy = policy
        self._scratch = Scratch(settings)
        self._cloud: BoundedCloud | None = None
        self._account: Account | None = None
        self._steps = tracing.Steps()

    def outcome(self) -> State:
        """Do the work and record how it ended. Raises only `LeaseLost` and `SQLAlchemyError`."""
        try:
            return self._work()
        finally:
            self._steps.end()
            if self._cloud:
                self._cloud.close(self._lease.check_held)
            self._scratch.close()

    @abstractmethod
    def _work(self) -> State: ...

    def _connect(self, check: Callable[[], None]) -> BoundedCloud:
        """Sign in, if that is not done yet. `check` stops this, and by default the calls that follow, by raising."""
        if self._cloud is None or self._cloud.left:
            ticket = self._ticket
            if ticket.sealed_secrets is None:
                raise ConfigurationError("the account's secrets are no longer kept; publish again")
            account = Account(ticket.platform, ticket.account, self._vault.open(ticket.sealed_secrets))
            self._account = account
            target = Target(ticket.platform, ticket.target)
            timeouts = Timeouts(
                self._settings.connect_timeout_seconds,
                self._settings.call_timeout_seconds,
                self._settings.verify_seconds,
            )

            self._cloud = BoundedCloud.connect(
                plugin(ticket.platform),
                account,
                target,
                timeouts,
                self._policy,
                check=check,
                look=self._lease.check_held,
            )
        return self._cloud

    def _at_first(self, check: Callable[[], None], call: Callable[[BoundedCloud], Result]) -> Result:
        """Return what a call returns that may be the first one after the sign-in."""
        cloud = self._connect(check)
        try:
            return call(cloud)
        except CloudError:
            # The sign-in of an earlier ticket may be of no use any more, as for a publication.
            if not cloud.kept or cloud.left:
                raise
            cloud.close(check)
            self._cloud = None
            return call(self._connect(check))

    @property
    def _tags(self) -> Tags:
        return Tags(self._ticket.uid, self._store.deployment)

    def _remove(self, cloud_id: str, check: Callable[[], None]) -> None:
        cloud = self._connect(check)
        self._lease.check_held()
        self._journal.condemn(cloud_id)
        if self._ticket.target.get("protected") and self._ticket.state in (State.PUBLISHING, State.CANCELLING):
            # Not for a published image: its owner lifts the protection first.
            cloud.release(cloud_id, self._tags, check)
        cloud.delete(cloud_id, self._tags, check)
        self._journal.gone(cloud_id)

    def _words(self, error: Exception) -> str:
        return self._account.hide_secrets(str(error)) if self._account else str(error)
