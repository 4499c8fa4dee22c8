"""Appliances, which group images. Only what callers see of them is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, NotFound
from publisher.core.image import appliance_uri
from publisher.core.listing import ListField, ListFieldKind, Listing, Page
from publisher.core.names import check_name, check_text
from publisher.store.database import appliances, audit_change, db_now, images, reading, tickets, upsert, writing
from publisher.store.list_queries import Fields, select_page

VERSION, DISTRIBUTION, ARCHITECTURE = "1", "unknown", "x86_64"
"""Defaults of an appliance that nobody described."""

_NAMED_MAX = 100


@dataclass(frozen=True, slots=True)
class Appliance:
    """A user's appliance. Its id is unique among that user's appliances. Times are seconds since the epoch."""

    owner: str
    id: int
    name: str
    version: str
    description: str
    distribution: str
    architecture: str
    created: float
    modified: float


@dataclass(frozen=True, slots=True)
class Contents:
    """The images and tickets of an appliance."""

    size: int = 0
    """Total size of its images' files, in bytes."""
    images: Sequence[int] | None = ()
    """Ids of its images; None if there are more than 100."""
    tickets: Sequence[tuple[int, int]] | None = ()
    """Image id and own id of each published image; None if there are more than 100."""


_COLUMNS = [appliances.c[each.name] for each in fields(Appliance)]


_FIELDS: Fields = {
    "dbId": ListField(appliances.c.id, ListFieldKind.NUMBER),
    "created": ListField(appliances.c.created, ListFieldKind.TIME),
    "lastModified": ListField(appliances.c.modified, ListFieldKind.TIME),
    "name": ListField(appliances.c.name),
    "version": ListField(appliances.c.version),
    "description": ListField(appliances.c.description),
    "distributionName": ListField(appliances.c.distribution),
    "archName": ListField(appliances.c.architecture),
}


class Appliances:
    """Users' appliances."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        owner: str,
        *,
        id: int | None = None,
        name: str | None = None,
        version: str = VERSION,
        description: str = "",
        distribution: str = DISTRIBUTION,
        architecture: str = ARCHITECTURE,
    ) -> Appliance:
        """Add an appliance. By default `id` is the next free one, and the name is derived from it.

        Raises `InvalidRequest` for a text that is empty or too long, `Conflict` if the id is taken or the owner is
        unknown.
        """
        texts = {"version": version, "distribution": distribution, "architecture": architecture}
        if name is not None:
            texts["name"] = name
        for field, text in texts.items():
            check_name(text, field)
        check_text(description, "description")
        try:
            with writing(self._engine) as connection:
                number = _next_id(connection, owner) if id is None else id
                row = _row(owner, number) | texts | {"description": description}
                added = _appliance(connection.execute(insert(appliances).values(row).returning(*_COLUMNS)).one())
                audit_change(connection, "appliance.create", appliance_uri(owner, number), detail=f"{added.name!r}")
                return added
        except IntegrityError:
            if id is not None and self.find(owner, id):
                raise Conflict(f"{owner} has an appliance {id} already") from None
            raise Conflict(f"there is no user '{owner}'") from None

    def find(self, owner: str, id: int) -> Appliance | None:
        query = select(*_COLUMNS).where(appliances.c.owner == owner, appliances.c.id == id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return _appliance(row) if row else None

    def get(self, owner: str, id: int) -> Appliance:
        """Return an appliance. Raises `NotFound` if it is missing or belongs to someone else."""
        found = self.find(owner, id)
        if found is None:
            raise _none(owner, id)
        return found

    def list(self, owner: str | None = None) -> list[Appliance]:
        query = select(*_COLUMNS).order_by(appliances.c.owner, appliances.c.id)
        if owner is not None:
            query = query.where(appliances.c.owner == owner)
        with reading(self._engine) as connection:
            return [_appliance(row) for row in connection.execute(query)]

    def page(self, owner: str, listing: Listing) -> Page[Appliance]:
        """Return the wanted part of a user's appliances. Raises `InvalidRequest`."""
        query = select(*_COLUMNS).where(appliances.c.owner == owner)
        with reading(self._engine) as connection:
            found = select_page(connection, query, _FIELDS, listing)
        return Page(found.total, [_appliance(row) for row in found.items])

    def contents(
        self, owner: str, id: int | None = None, *, platforms: Collection[str] | None = None
    ) -> dict[int, Contents]:
        """Return the contents of each of a user's appliances, or of one of them.

        Empty appliances are left out. If `platforms` is given, published images of other platforms are left out, too.
        """
        size = select(images.c.appliance_id, func.sum(images.c.size)).group_by(images.c.appliance_id)
        with reading(self._engine) as connection:
            sizes = connection.execute(size.where(*_theirs(images, owner, id))).all()
            of_images = _named(connection, images, _theirs(images, owner, id))
            wanted = [] if platforms is None else [tickets.c.platform.in_(platforms)]
            of_tickets = _named(connection, tickets, [*_theirs(tickets, owner, id), *wanted])
        found: dict[int, Contents] = {}
        for key, total in sizes:
            rows = of_images[key]
            found[key] = Contents(size=int(total), images=None if rows is None else [row.id for row in rows])
        for key, rows in of_tickets.items():
            pairs = None if rows is None else [(row.image_id, row.id) for row in rows]
            found[key] = replace(found.get(key, Contents()), tickets=pairs)
        return found

    def remove(self, owner: str, id: int) -> None:
        """Delete an appliance. Raises `NotFound`, or `Conflict` if it has images or published images."""
        mine = appliances.c.owner == owner, appliances.c.id == id
        with writing(self._engine) as connection:
            # Locked until the end: adding an image meanwhile waits, and then creates the appliance again.
            if connection.execute(select(appliances.c.id).where(*mine).with_for_update()).one_or_none() is None:
                raise _none(owner, id)
            for table, words in ((images, "images"), (tickets, "published images")):
                theirs = table.c.owner == owner, table.c.appliance_id == id
                if connection.execute(select(table.c.id).where(*theirs).limit(1)).one_or_none():
                    raise Conflict(f"appliance {id} of {owner} still has {words}; delete them first")
            connection.execute(delete(appliances).where(*mine))
            audit_change(connection, "appliance.delete", appliance_uri(owner, id))


def ensure_appliance(connection: Connection, owner: str, id: int) -> None:
    """Create an appliance on its first use, in the transaction of that use.

    Raises `IntegrityError` if there is no such user.
    """
    made = upsert(connection, appliances).values(_row(owner, id))
    # Write an existing row unchanged: this locks it, so that nobody deletes it before our transaction ends.
    connection.execute(made.on_conflict_do_update(index_elements=["owner", "id"], set_={"owner": owner}))


def _row(owner: str, id: int) -> dict[str, Any]:
    return {
        "owner": owner,
        "id": id,
        "name": f"appliance-{id}",
        "version": VERSION,
        "description": "",
        "distribution": DISTRIBUTION,
        "architecture": ARCHITECTURE,
        "created": db_now(),
        "modified": db_now(),
    }


def _theirs(table: Table, owner: str, id: int | None) -> list[ColumnElement[bool]]:
    return [table.c.owner == owner] + ([] if id is None else [table.c.appliance_id == id])


def _named(
    connection: Connection, table: Table, theirs: Sequence[ColumnElement[bool]]
) -> dict[int, Sequence[Row[Any]] | None]:
    """Return the rows of each appliance in the table; None instead of the rows if there are too many."""
    counted = select(table.c.appliance_id, func.count().label("number")).where(*theirs).group_by(table.c.appliance_id)
    few = select(table.c.appliance_id).where(*theirs).group_by(table.c.appliance_id).having(func.count() <= _NAMED_MAX)
    own = [table.c.id, *([table.c.image_id] if table is tickets else [])]
    rows = select(table.c.appliance_id, *own).where(*theirs, table.c.appliance_id.in_(few)).order_by(table.c.id)
    named: dict[int, list[Row[Any]]] = {}
    for row in connection.execute(rows):
        named.setdefault(row.appliance_id, []).append(row)
    return {row.appliance_id: named.get(row.appliance_id) for row in connection.execute(counted)}


def _next_id(connection: Connection, owner: str) -> int:
    highest = select(func.max(appliances.c.id)).where(appliances.c.owner == owner)
    return (connection.execute(highest).scalar() or 0) + 1


def _none(owner: str, id: int) -> NotFound:
    return NotFound(f"{owner} has no appliance {id}")


def _appliance(row: Row[Any]) -> Appliance:
    return Appliance(**row._mapping)
