"""The database as every repository uses it: its tables, its transactions, and the audit entries of their changes.

All times are seconds since the epoch, by the database's clock; sizes are bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    column,
    false,
    func,
    insert,
    select,
    table,
)
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert

_BUSY_SECONDS = 10
TURN, WRITING, DURABLE, UNTIL = "publisher_turn", "publisher_writing", "publisher_durable", "publisher_until"
ALONE = "publisher_alone"
"""Options of an engine and of its connections, by which `publisher.store.engine` begins a transaction, or none."""
_ACTOR = "publisher_actor"
_SHORT = 64
"""Maximum length of what a proxy may supply about the caller: an overlong text must not make a change fail."""

# Tables ---------------------------------------------------------------------------------------------------------------

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite generates ids only in a column of exactly this type.
BigId = BigInteger().with_variant(Integer, "sqlite")

installation = Table(
    "installation",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("login", String(255), primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("administrator", Boolean, nullable=False),
    # Entitlements given to the user directly; the user's roles give further ones.
    Column("entitlements", JSON, nullable=False),
    Column("roles", JSON, nullable=False, server_default="[]"),
    Column("created", Double, nullable=False),
    Column("id", BigInteger, nullable=False, server_default="0"),
    # The webhook for the user's tickets, and the secret that signs its messages.
    Column("notify_url", Text),
    Column("sealed_notify_secret", LargeBinary),
)

roles = Table(
    "roles",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("description", Text, nullable=False),
    Column("entitlements", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("id", BigInteger, nullable=False, server_default="0"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("owner", String(255), ForeignKey("users.login", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("public_key", String(64), nullable=False, unique=True),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    sqlite_autoincrement=True,
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("owner", String(255), ForeignKey("users.login", ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("platform", String(32), nullable=False),
    Column("fields", JSON, nullable=False),
    Column("sealed_secrets", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Column("modified", Double, nullable=False),
    # What the last test of the account found (publisher.core.cloud_check.Explored).
    Column("explored", JSON),
    UniqueConstraint("owner", "name"),
    sqlite_autoincrement=True,
)

appliances = Table(
    "appliances",
    metadata,
    Column("owner", String(255), ForeignKey("users.login", ondelete="CASCADE"), primary_key=True),
    # The caller may choose this number: each user's appliances are numbered separately.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(255), nullable=False),
    Column("version", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("distribution", String(255), nullable=False),
    Column("architecture", String(255), nullable=False),
    Column("created", Double, nullable=False),
    Column("modified", Double, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("owner", String(255), ForeignKey("users.login"), nullable=False),
    Column("appliance_id", BigInteger, nullable=False),
    Column("name", String(255), nullable=False),
    Column("format", String(32), nullable=False),
    Column("disk_format", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
    Column("md5", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("sha512", String(128), nullable=False),
    Column("location", Text, nullable=False),
    Column("created", Double, nullable=False),
    # The registration: its state and its error. Until it is `ready`, what describes the file is empty or 0.
    Column("state", String(16), nullable=False, server_default="ready"),
    # The URL that the file is fetched from, and the format and checksums that the caller declared; None if not given.
    Column("source", Text),
    Column("wanted_format", String(32)),
    Column("wanted_md5", String(32)),
    Column("wanted_sha256", String(64)),
    Column("error", Text),
    # A note to the owner about the file, and why Glance would refuse it.
    Column("warning", Text),
    Column("glance_objection", Text),
    Column("sent", BigInteger, nullable=False, server_default="0"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    # How many times it has been registered.
    Column("revision", Integer, nullable=False, server_default="1"),
    # How many one-time download keys were used.
    Column("downloads", Integer, nullable=False, server_default="0"),
    Column("modified", Double, nullable=False, server_default="0"),
    Column("registered", Double),
    # The same as in a ticket.
    Column("not_before", Double, nullable=False, server_default="0"),
    Column("lease_token", BigInteger, nullable=False, server_default="0"),
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("worker", String(255)),
    Column("wake_at", Double, nullable=False, server_default="0"),
    Column("wakes", Integer, nullable=False, server_default="0"),
    Index(None, "owner", "appliance_id"),
    Index(None, "state", "wake_at"),
    sqlite_autoincrement=True,
)

tickets = Table(
    "tickets",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("uid", String(36), nullable=False, unique=True),
    Column("owner", String(255), nullable=False),
    Column("appliance_id", BigInteger, nullable=False),
    # No foreign key: a ticket stays readable after its image was deleted.
    Column("image_id", BigInteger, nullable=False),
    Column("platform", String(32), nullable=False),
    # The stored account that the request named, if any. No foreign key: the ticket has its own copy.
    Column("account_id", BigInteger),
    Column("account", JSON, nullable=False),
    # For a stored account: the elements that the request gave nevertheless, secrets only by name.
    Column("own_elements", JSON),
    # A digest that identifies the account and its cloud (publisher.platforms.platform.cloud_account).
    Column("cloud_account", String(64), nullable=False, server_default=""),
    Column("sealed_secrets", LargeBinary),
    Column("target", JSON, nullable=False),
    Column("name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    # The handle of what the ticket has in the cloud: the journal, the tags and the sweeper know no other id.
    Column("cloud_id", String(255)),
    # The cloud's own id of the image, for people; null if that is the handle.
    Column("shown_id", Text),
    Column("location", Text),
    Column("error", Text),
    Column("error_detail", Text),
    # Why the ticket fails as soon as its leftovers are deleted.
    Column("failure", Text),
    # When its withdrawal, or what `retire` says, was requested.
    Column("withdrawal", Double),
    # When the service withdraws its image, and when it next has to do something about that: notify, or withdraw.
    Column("expires", Double),
    Column("expiry_due", Double),
    # The lineage that the image belongs to, how many images of it stay, and what happens to older ones.
    Column("lineage", String(255)),
    Column("keep", Integer),
    Column("older", String(16)),
    # What a worker must still do with the image because a newer one replaces it, and what was done last.
    Column("retire", String(16)),
    Column("retired", String(16)),
    Column("created", Double, nullable=False),
    Column("modified", Double, nullable=False),
    # When it was created, or last retried by its owner. Its deadline counts from here.
    Column("accepted", Double, nullable=False, server_default="0"),
    Column("started", Double),
    # When `sent` last changed.
    Column("progressed", Double),
    Column("finished", Double),
    # As in an image, for downloads through this ticket.
    Column("downloads", Integer, nullable=False, server_default="0"),
    # A queued ticket is not claimed before this time: the delay before a retry.
    Column("not_before", Double, nullable=False),
    # The lease: its worker, its fencing token and its end.
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("worker", String(255)),
    # When the reconciler wakes a worker for it next, and how often it has done so.
    Column("wake_at", Double, nullable=False),
    Column("wakes", Integer, nullable=False),
    # Why it failed or will be retried (publisher.core.errors.Reason).
    Column("reason", String(32)),
    # The id in the logs of the request that created it, and its trace (W3C Trace Context, traceparent).
    Column("request_id", String(64)),
    Column("traceparent", String(64)),
    # Webhook URL for this ticket, in addition to the owner's.
    Column("notify_url", Text),
    Index(None, "owner", "appliance_id", "id"),
    Index(None, "image_id", "id"),
    Index(None, "finished"),
    Index(None, "expiry_due"),
    Index(None, "lineage", "owner", "id"),
    Index(None, "retire"),
    Index(None, "state", "id"),
    Index(None, "owner", "id"),
    Index(None, "platform", "id"),
    Index(None, "state", "wake_at"),
    Index(None, "cloud_account", "state", "id"),
    Index(None, "owner", "state", "id"),
    sqlite_autoincrement=True,
)

# The names of tickets, for searches, by the tickets' ids. Triggers keep it current. It is not part of the metadata,
# because it is a virtual table on SQLite (see migration 0012).
ticket_names = table("ticket_names", column("rowid", BigInteger), column("name", String))

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    # HMAC-SHA256 of the request's method, path and body. Its key is derived from the vault's.
    Column("digest", String(64), nullable=False),
    Column("ticket_id", BigInteger, ForeignKey("tickets.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Double, nullable=False, index=True),
)

history = Table(
    "ticket_history",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("ticket_id", BigInteger, ForeignKey("tickets.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("words", Text, nullable=False),
)

journal = Table(
    "ticket_journal",
    metadata,
    Column("ticket_id", BigInteger, ForeignKey("tickets.id", ondelete="CASCADE"), primary_key=True),
    Column("cloud_id", String(255), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("modified", Double, nullable=False),
)

# What deleted tickets have left, or may have left, in a cloud.
tombstones = Table(
    "tombstones",
    metadata,
    Column("ticket_uid", String(36), primary_key=True),
    Column("cloud_id", String(255), primary_key=True),
    # The state in which the ticket ended.
    Column("state", String(16), nullable=False),
    # The ticket published this object: it now belongs to the user alone.
    Column("published", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    # How the sweeper signs in to look for it, and where. Kept for a limited time, and not for published objects.
    Column("platform", String(32)),
    Column("account", JSON),
    Column("target", JSON),
    Column("sealed_secrets", LargeBinary),
)

# Orphans in clouds, and when the sweeper saw them.
sightings = Table(
    "sightings",
    metadata,
    Column("ticket_uid", String(36), primary_key=True),
    Column("cloud_id", String(255), primary_key=True),
    Column("first", Double, nullable=False),
    Column("last", Double, nullable=False),
)

# Accounts that refused the sweeper, and until when they are left alone.
sweep_refusals = Table(
    "sweep_refusals",
    metadata,
    # A digest of everything that the sweeper signs in with: a new password makes it another account.
    Column("account", String(64), primary_key=True),
    Column("refusals", Integer, nullable=False),
    Column("until", Double, nullable=False),
    Column("last", Double, nullable=False),
)

elections = Table(
    "elections",
    metadata,
    Column("office", String(64), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("until", Double, nullable=False),
)

# The course of an upload, for the plot of its throughput. Samples get rarer: a long upload has some hundreds.
samples = Table(
    "ticket_samples",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("ticket_id", BigInteger, ForeignKey("tickets.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("sent", BigInteger, nullable=False),
)

# The workers, each with its last heartbeat.
workers = Table(
    "workers",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    # Its name in Celery and in Flower.
    Column("node", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started", Double, nullable=False),
    Column("seen", Double, nullable=False),
    # It was asked to drain: it takes no new tickets and exits once it has none left.
    Column("drain", Boolean, nullable=False, server_default=false()),
    # When it exited, if it reported that.
    Column("stopped", Double),
)

# Console sessions. Only the digest of the cookie's value is stored.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("login", String(255), ForeignKey("users.login", ondelete="CASCADE"), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("seen", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
)

# What workers are asked to check while a caller waits (publisher.core.cloud_check). Kept for an hour.
checks = Table(
    "checks",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("owner", String(255), nullable=False, index=True),
    Column("platform", String(32), nullable=False),
    Column("account_id", BigInteger),
    Column("account", JSON, nullable=False),
    # Only until the check has ended.
    Column("sealed_secrets", LargeBinary),
    Column("target", JSON, nullable=False),
    Column("image_id", BigInteger),
    # `waiting`, `running` or `done`.
    Column("state", String(16), nullable=False),
    Column("result", JSON),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    sqlite_autoincrement=True,
)

# Webhook notifications and their delivery.
notifications = Table(
    "notifications",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    # The id for receivers, the same for each delivery attempt.
    Column("uid", String(36), nullable=False, unique=True),
    Column("ticket_id", BigInteger, ForeignKey("tickets.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("owner", String(255), nullable=False),
    Column("url", Text, nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", Text, nullable=False),
    # `waiting`, `sent` or `failed`.
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("error", Text),
    Index(None, "state", "next_at"),
)

# The audit log. Entries are only added.
audit = Table(
    "audit",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False, index=True),
    Column("actor", String(255), nullable=False),
    # For example `ticket.cancel` or `account.create`.
    Column("action", String(64), nullable=False),
    # The URI of the affected object, as in the API.
    Column("object", Text, nullable=False),
    Column("detail", Text, nullable=False),
    # The origin: `api`, `console` or `terminal`; the caller's address; and the request's id in the logs.
    Column("door", String(16), nullable=False),
    Column("address", String(64)),
    Column("request_id", String(64)),
)


# The clock and transactions -------------------------------------------------------------------------------------------


class db_now(FunctionElement[float]):  # noqa: N801  # an SQL function, named as such
    """The database's clock, in seconds since the epoch. The workers' own clocks do not matter."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    # clock_timestamp() advances within a transaction, now() does not.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    return "publisher_now()"


def busy_seconds() -> float:
    """Return how long a transaction waits for the locks of others by default."""
    return _BUSY_SECONDS


@contextmanager
def reading(engine: Engine, *, together: bool = False) -> Iterator[Connection]:
    """Run statements that only read.

    Each statement sees what was committed when it started. With `together`, a transaction makes all see the same.
    """
    options: dict[str, Any] = {ALONE: not together}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "REPEATABLE READ" if together else "AUTOCOMMIT"
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine, *, durable: bool = True, wait_seconds: float | None = None) -> Iterator[Connection]:
    """Run a transaction that may write. Commits at the end of the block, rolls back on an exception.

    A `durable` transaction survives a power cut after its commit. A power cut may undo one that is not durable, and all
    later ones, but never in part. This saves the wait for the disk, which is long while an image is written to it.
    `wait_seconds` is how long to wait for locks of others; None: the default time.
    """
    wait = busy_seconds() if wait_seconds is None else wait_seconds
    options = {WRITING: True, DURABLE: durable, UNTIL: time.monotonic() + wait}
    with _turn(engine, wait), engine.connect().execution_options(**options) as connection, connection.begin():
        if not durable and engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        if wait_seconds is not None and engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(wait_seconds * 1000))}")
        yield connection


@contextmanager
def _turn(engine: Engine, wait_seconds: float) -> Iterator[None]:
    """Wait for this thread's turn to write, on SQLite, which allows one writer at a time.

    A writer that finds the database locked by another process sleeps and retries, ever more rarely, and newcomers
    overtake it. This lock avoids that between threads.
    """
    lock: threading.Lock | None = engine.get_execution_options().get(TURN)
    # On a timeout, ask the database: it has little time left before it refuses.
    held = lock is not None and lock.acquire(timeout=wait_seconds)
    try:
        yield
    finally:
        if lock is not None and held:
            lock.release()


def run_on_driver(
    connection: Connection, sql: str, parameters: Any = (), *, returns_rows: bool = False
) -> list[tuple[Any, ...]]:
    """Execute SQL on the driver, and return its rows. Raises SQLAlchemy's errors, without the parameters.

    SQLAlchemy takes several times as long for a short statement as SQLite does. Its events do not see this one.
    """
    driver: Any = connection.connection
    cursor = driver.cursor()
    try:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if returns_rows else []
    except connection.dialect.loaded_dbapi.Error as error:
        dialect = connection.dialect
        is_lost = dialect.is_disconnect(error, driver.dbapi_connection, cursor)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, dialect.loaded_dbapi.Error,
            hide_parameters=True, connection_invalidated=is_lost, dialect=dialect,
        ) from error  # fmt: skip
    finally:
        cursor.close()


# Statements that the two databases write differently ------------------------------------------------------------------


def keep_others_out(connection: Connection, table: Table) -> None:
    """Lock out other writers of a table until this writing transaction ends. Only for rarely written tables."""
    if connection.dialect.name == "postgresql":  # SQLite allows only one writer anyway
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")


def next_id(connection: Connection, table: Table) -> int:
    """Return the next id for a row whose key is a name. Other writers must be locked out."""
    return int(connection.execute(select(func.coalesce(func.max(table.c.id), 0) + 1)).scalar_one())


def upsert(database: Engine | Connection, table: Table) -> PostgresqlInsert | SqliteInsert:
    """Return an INSERT that can say what to do if the row exists: `on_conflict_do_update`, `on_conflict_do_nothing`."""
    if database.dialect.name == "postgresql":
        # Imported here: it takes 0.05 s, and an installation on SQLite does not need it.
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    return sqlite_insert(table)


# The audit log: who changes what --------------------------------------------------------------------------------------

# The transaction that makes a change also writes its entry, so that neither exists without the other. The actor comes
# with the engine that the repositories use (see `Store.acting`). Without an actor, as in a worker, no entry is written.


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and through which interface (`door`): `api`, `console` or `terminal`."""

    login: str
    door: str
    address: str | None = None
    request_id: str | None = None


def acting(engine: Engine, actor: Actor) -> Engine:
    """Return the same engine, with its connections. Changes made through it are recorded as done by the actor."""
    return engine.execution_options(**{_ACTOR: actor})


def audit_change(connection: Connection, action: str, *objects: str, detail: str = "") -> None:
    """Record what the connection's transaction changes, if there is an actor. `detail` never contains a secret."""
    actor: Actor | None = connection.get_execution_options().get(_ACTOR)
    if actor is not None and objects:
        _write(connection, [_row(actor, action, object, detail) for object in objects])


def audit_rows(action: str, at: float, changes: Iterable[tuple[Actor | None, str, str]]) -> Sequence[dict[str, Any]]:
    """Return the rows of `audit` for changes of several actors: who changes which object, and details. Leaves out
    changes without an actor."""
    return [_row(actor, action, object, detail) | {"at": at} for actor, object, detail in changes if actor is not None]


_ADD = insert(audit).values(at=db_now())


def _write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    # A single row goes out as one plain statement, without the preparations for many.
    connection.execute(_ADD, rows if len(rows) > 1 else rows[0])


def _row(actor: Actor, action: str, object: str, detail: str) -> dict[str, Any]:
    return {
        "actor": actor.login,
        "action": action,
        "object": object,
        "detail": detail,
        "door": actor.door,
        "address": actor.address and actor.address[:_SHORT],
        "request_id": actor.request_id and actor.request_id[:_SHORT],
    }
