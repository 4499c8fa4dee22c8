"""Rows that tests need in a store, with defaults for everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Engine, event, update

from publisher.core.asking import alone, ask
from publisher.core.image import Digests, Image
from publisher.core.ticket import Ticket
from publisher.files.hashing import digest
from publisher.store import Store, prepared
from publisher.store.database import db_now, images, run_on_driver, tickets, users, writing
from publisher.store.new_tickets import IdempotencyKey, NewTicket, TicketWanted

OWNER = "root"
APPLIANCE = 4


def add_owner(store: Store) -> None:
    """Add the owner, without a usable password, because hashing one is slow."""
    with writing(store.engine) as connection:
        connection.execute(
            users.insert().values(login=OWNER, password_hash="-", administrator=True, entitlements=[], created=db_now())
        )


def add_image(store: Store, root: Path, content: bytes, *, location: str = "disk.raw") -> Image:
    """Add a raw image with its file under `root`, and its owner if that is missing."""
    if store.users.get(OWNER) is None:
        add_owner(store)
    file = root / location
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return add_image_row(store, digest(file), location)


def add_image_row(store: Store, digests: Digests, location: str, **values: Any) -> Image:
    plain: dict[str, Any] = {"owner": OWNER, "appliance_id": APPLIANCE}
    return store.images.add(
        **(plain | values),
        name="disk",
        format="raw",
        disk_format="raw",
        virtual_size=digests.size,
        digests=digests,
        location=location,
    )


def add_ticket(store: Store, **values: Any) -> Ticket:
    """Add a ticket of image 1, and the image if it is missing."""
    plain: dict[str, Any] = {
        "owner": OWNER,
        "appliance_id": APPLIANCE,
        "image_id": 1,
        "image_size": 1000,
        "platform": "memory",
        "account": {"login": "anybody"},
        "sealed_secrets": b"sealed",
        "target": {"displayName": "an image"},
        "name": "an image",
    }
    row = plain | values
    if store.images.get(row["image_id"]) is None:
        if store.users.get(OWNER) is None:
            add_owner(store)
        add_image_row(store, Digests(1000, "5" * 32, "2" * 64, "f" * 128), "none.raw", id=row["image_id"])
    key = row.pop("idempotency_key", None)
    return create_ticket(store, NewTicket(**row), key)


def create_ticket(store: Store, new: NewTicket, key: IdempotencyKey | None = None) -> Ticket:
    """Commit a queued ticket. Raises what `NewTickets.create_all` has as its verdict."""
    return alone(ask(store.new_tickets.create_all, TicketWanted(new, key, store.actor)))


def password_hash(store: Store, login: str) -> str | None:
    """Return the stored hash of a user's password."""
    found = store.users.caller(login)
    return found.password_hash if found else None


def remove_image(store: Store, id: int) -> None:
    """Delete an image, even one that a ticket needs."""
    with writing(store.engine) as connection:
        connection.execute(images.delete().where(images.c.id == id))


def sign_out(store: Store, login: str) -> None:
    """End all of a user's sessions."""
    for each in store.sessions.of(login, idle_seconds=3600.0):
        store.sessions.end_one(login, each.id)


def current(store: Store, ticket: Ticket | int) -> Ticket:
    """Return the ticket's present state."""
    found = store.tickets.get(ticket if isinstance(ticket, int) else ticket.id)
    assert found is not None
    return found


def put_back(store: Store, ticket: Ticket | int, **columns: float) -> None:
    """Set times of a ticket to so many seconds before now, instead of waiting."""
    id = ticket if isinstance(ticket, int) else ticket.id
    values = {name: db_now() - seconds for name, seconds in columns.items()}
    with writing(store.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == id).values(values))


def words(store: Store, ticket: Ticket | int) -> list[str]:
    """Return the texts of the ticket's history, oldest first."""
    return [entry.words for entry in store.tickets.history(ticket if isinstance(ticket, int) else ticket.id)]


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Return a list that gets each statement executed in the block, without those that begin a transaction."""
    executed: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            executed.append(statement)

    def run(connection: Connection, sql: str, *parameters: Any, **options: Any) -> Any:
        note(connection, None, sql)
        return run_on_driver(connection, sql, *parameters, **options)

    event.listen(engine, "before_cursor_execute", note)
    try:
        with patch.object(prepared, "run_on_driver", run):
            yield executed
    finally:
        event.remove(engine, "before_cursor_execute", note)
