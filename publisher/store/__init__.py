"""The ticket store: `Store`, its repositories, and the values that they take and return.

The other packages import only from here, never from a module of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, String, cast, column, inspect, select, table

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings
from publisher.store import database
from publisher.store.accounts import Accounts, StoredAccount, account_uri, parse_account_uri
from publisher.store.api_keys import ApiKey, ApiKeys, api_key_uri
from publisher.store.appliances import Appliance, Appliances, Contents
from publisher.store.audit import UNKNOWN, Audit, AuditEntry
from publisher.store.database import Actor, acting, reading
from publisher.store.engine import open_engine
from publisher.store.expiries import Expiries
from publisher.store.fleet import Fleet, Leadership, Member, WorkerStanding, WorkerState
from publisher.store.images import Images, no_image
from publisher.store.leases import Claim, Leases, Step
from publisher.store.limits import Limits, QueueCapacity, UploadSlots
from publisher.store.new_tickets import (
    BasisWanted,
    IdempotencyKey,
    IdempotencyKeys,
    NewTicket,
    NewTickets,
    TicketWanted,
)
from publisher.store.notifications import Notification, Notifications
from publisher.store.orphans import Scope, Standing, Sweeping
from publisher.store.pending_checks import ClaimedCheck, NewCheck, PendingChecks
from publisher.store.publications import COUNTED_MAX, ListState, PublicationPage, Publications, Upload
from publisher.store.registrations import Registration, Registrations
from publisher.store.sessions import Session, Sessions, session_id
from publisher.store.statistics import Queue, Statistics, Throughput
from publisher.store.ticket_rows import Extent, TicketFilter, Version, version_of
from publisher.store.tickets import AccountGiven, Tickets
from publisher.store.users import (
    ENTITLEMENT_DESCRIPTIONS,
    CallerRow,
    Role,
    Roles,
    Sought,
    User,
    Users,
    verify_password,
    webhook_uri,
)

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "COUNTED_MAX",
    "ENTITLEMENT_DESCRIPTIONS",
    "UNKNOWN",
    "AccountGiven",
    "Accounts",
    "Actor",
    "ApiKey",
    "Appliance",
    "Audit",
    "AuditEntry",
    "BasisWanted",
    "CallerRow",
    "Claim",
    "ClaimedCheck",
    "Contents",
    "Extent",
    "Fleet",
    "IdempotencyKey",
    "Leases",
    "ListState",
    "Member",
    "NewCheck",
    "NewTicket",
    "Notification",
    "PublicationPage",
    "Queue",
    "Registration",
    "Role",
    "Scope",
    "Session",
    "Sought",
    "Standing",
    "Step",
    "Store",
    "StoredAccount",
    "Throughput",
    "TicketFilter",
    "TicketWanted",
    "Upload",
    "User",
    "Version",
    "WorkerStanding",
    "WorkerState",
    "account_uri",
    "api_key_uri",
    "no_image",
    "parse_account_uri",
    "session_id",
    "verify_password",
    "version_of",
    "webhook_uri",
]

_MIGRATIONS = Path(__file__).parent / "migrations"
_ALEMBIC_VERSION = table("alembic_version", column("version_num"))


class Store:
    """The store: tickets, images, users and all else, in one database."""

    def __init__(
        self,
        engine: Engine,
        *,
        wake_again_seconds: float = 5.0,
        limits: Limits | None = None,
        new_tickets: NewTickets | None = None,
        actor: Actor | None = None,
        expiry_notice_seconds: float = 86400.0,
    ) -> None:
        limits = limits or Limits()
        self._engine = engine
        self.actor = actor
        """Who makes the changes, for the audit log. Without an actor, none is recorded."""
        self._wake_again_seconds = wake_again_seconds
        self._limits = limits
        # Shared by the stores of all actors, because it commits their tickets together.
        self.new_tickets = new_tickets or NewTickets(
            engine,
            wake_again_seconds=wake_again_seconds,
            capacity=QueueCapacity(limits),
            expiry_notice_seconds=expiry_notice_seconds,
        )
        self._slots = UploadSlots(limits)

    # A request needs a few of these, so each is created when it is first used.

    @cached_property
    def engine(self) -> Engine:
        return acting(self._engine, self.actor) if self.actor else self._engine

    @cached_property
    def tickets(self) -> Tickets:
        return Tickets(self.engine, wake_again_seconds=self._wake_again_seconds, slots=self._slots)

    @cached_property
    def leases(self) -> Leases:
        return Leases(self.engine, self._slots)

    @cached_property
    def images(self) -> Images:
        return Images(self.engine)

    @cached_property
    def appliances(self) -> Appliances:
        return Appliances(self.engine)

    @cached_property
    def users(self) -> Users:
        return Users(self.engine)

    @cached_property
    def roles(self) -> Roles:
        return Roles(self.engine)

    @cached_property
    def api_keys(self) -> ApiKeys:
        return ApiKeys(self.engine)

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self.engine)

    @cached_property
    def checks(self) -> PendingChecks:
        return PendingChecks(self.engine)

    @cached_property
    def registrations(self) -> Registrations:
        return Registrations(self.engine, wake_again_seconds=self._wake_again_seconds)

    @cached_property
    def idempotency_keys(self) -> IdempotencyKeys:
        return IdempotencyKeys(self.engine)

    @cached_property
    def leadership(self) -> Leadership:
        return Leadership(self.engine)

    @cached_property
    def sweeping(self) -> Sweeping:
        return Sweeping(self.engine)

    @cached_property
    def fleet(self) -> Fleet:
        return Fleet(self.engine)

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(self.engine)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self.engine)

    @cached_property
    def notifications(self) -> Notifications:
        return Notifications(self.engine)

    @cached_property
    def expiries(self) -> Expiries:
        return Expiries(self.engine)

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(self.engine)

    @cached_property
    def publications(self) -> Publications:
        return Publications(self.engine)

    @classmethod
    def open(cls, settings: Settings) -> Store:
        limits = Limits(
            account_uploads=settings.account_uploads_max,
            user_uploads=settings.user_uploads_max,
            queue=settings.queue_max,
            user_queue=settings.user_queue_max,
        )
        return cls(
            open_engine(settings.database),
            wake_again_seconds=settings.wake_again_seconds,
            limits=limits,
            expiry_notice_seconds=settings.expiry_notice_seconds,
        )

    def acting(self, actor: Actor) -> Store:
        """Return this store for an actor: each change made through it is recorded in the audit log.

        Close only the original store.
        """
        return Store(
            self._engine,
            wake_again_seconds=self._wake_again_seconds,
            limits=self._limits,
            new_tickets=self.new_tickets,
            actor=actor,
        )

    def migrate(self) -> None:
        """Upgrade the tables to this version. Raises `ConfigurationError` if they are newer: there is no way back."""
        found = self._revision()
        if found == _revisions()[-1]:
            return
        if _is_newer(found):
            self.check_schema()
        from alembic import command  # slow to import (0.15 s) and seldom needed

        command.upgrade(self._alembic(), "head")

    def check_schema(self, *, or_newer: bool = False) -> None:
        """Check that the tables are of this version.

        Raises `ConfigurationError`. With `or_newer`, a later version is accepted: during an upgrade, a running process
        continues with the new tables until it is restarted.
        """
        found, wanted = self._revision(), _revisions()[-1]
        if _is_newer(found):
            if or_newer:
                return
            raise ConfigurationError(
                f"the database is newer than this software: its tables are of version {found}, this software knows"
                f" {wanted} at most; install the version of the software that upgraded it, or go back to a backup from"
                " before that upgrade"
            )
        if found != wanted:
            raise ConfigurationError(
                f"the database's tables are of version {found or 'none'}, this software needs {wanted};"
                " run: publisher migrate"
            )

    def close(self) -> None:
        self.engine.dispose()

    @cached_property
    def deployment(self) -> str:
        """The id of this installation, created with its tables. Part of the tags on its objects in clouds."""
        query = select(database.installation.c.value).where(database.installation.c.name == "deployment")
        with reading(self.engine) as connection:
            return str(connection.execute(query).scalar_one())

    def names(self, kind: str, beginning: str, count: int) -> Sequence[tuple[str, str]]:
        """Return completions for the command line, each with a description: names or ids that begin with `beginning`.

        For `tickets` and `images` the newest ones, for `users` the first by login.
        """
        name, about, order = {
            "tickets": (cast(database.tickets.c.id, String), database.tickets.c.name, database.tickets.c.id.desc()),
            "images": (cast(database.images.c.id, String), database.images.c.name, database.images.c.id.desc()),
            "users": (database.users.c.login, database.users.c.login, database.users.c.login),
        }[kind]
        query = select(name, about).where(name.startswith(beginning, autoescape=True)).order_by(order).limit(count)
        with reading(self.engine) as connection:
            return [(str(row[0]), str(row[1])) for row in connection.execute(query)]

    def _revision(self) -> str | None:
        """Return the version that Alembic recorded in the database; None if there are no tables."""
        with reading(self.engine) as connection:
            if not inspect(connection).has_table(_ALEMBIC_VERSION.name):
                return None
            return connection.execute(select(_ALEMBIC_VERSION.c.version_num)).scalar_one_or_none()

    def _alembic(self) -> Config:
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["engine"] = self.engine
        return config


@cache
def _revisions() -> tuple[str, ...]:
    """Return the versions of the tables, newest last: the first part of each migration's file name."""
    return tuple(sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")))


def _is_newer(revision: str | None) -> bool:
    """Return whether the tables are of a version that this software does not know."""
    return revision is not None and revision not in _revisions()
