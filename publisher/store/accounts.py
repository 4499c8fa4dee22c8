"""Cloud accounts that users keep here, to publish with by reference. Their secrets come sealed, and stay so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, NotFound
from publisher.core.listing import ListField, ListFieldKind, Listing, Page
from publisher.core.names import check_name
from publisher.core.uris import account_uri
from publisher.store.audit import audit_change
from publisher.store.engine import db_now, reading, writing
from publisher.store.list_queries import NUMBER, Fields, select_page
from publisher.store.tables import accounts


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """`fields` are the wire contract's own elements of the platform's credAccount, without its secrets."""

    id: int
    owner: str
    name: str
    platform: str
    fields: dict[str, Any]
    sealed_secrets: bytes = field(repr=False)
    created: float
    modified: float


_COLUMNS = [accounts.c[each.name] for each in fields(StoredAccount)]
_FIELDS: Fields = {
    NUMBER: ListField(accounts.c.id, ListFieldKind.NUMBER),
    "created": ListField(accounts.c.created, ListFieldKind.TIME),
    "lastModified": ListField(accounts.c.modified, ListFieldKind.TIME),
    "name": ListField(accounts.c.name),
    "targetPlatform.name": ListField(accounts.c.platform, ListFieldKind.NAME),
    "targetPlatform.type": ListField(accounts.c.platform, ListFieldKind.NAME),
}
"""What a list of them can be filtered and ordered by."""


class Accounts:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self, *, owner: str, name: str, platform: str, fields: dict[str, Any], sealed_secrets: bytes
    ) -> StoredAccount:
        """Raises `InvalidRequest` for a bad name, `Conflict` where the owner has one of that name, or is unknown."""
        row = {
            "owner": owner,
            "name": check_name(name, "name"),
            "platform": platform,
            "fields": fields,
            "sealed_secrets": sealed_secrets,
            "created": db_now(),
            "modified": db_now(),
        }
        try:
            with writing(self._engine) as connection:
                added = _account(connection.execute(insert(accounts).values(row).returning(*_COLUMNS)).one())
                audit_change(connection, "account.create", account_uri(owner, added.id), detail=f"{platform}, {name!r}")
                return added
        except IntegrityError:
            if self.find(owner, name=name):
                raise _taken(name) from None
            raise Conflict(f"there is no user '{owner}'") from None

    def get(self, owner: str, id: int) -> StoredAccount:
        """Raises `NotFound`, another user's account being as good as none."""
        found = self.find(owner, id=id)
        if found is None:
            raise _none(owner, id)
        return found

    def find(self, owner: str | None, *, id: int | None = None, name: str | None = None) -> StoredAccount | None:
        """The user's account of that id, or that name, or both; anybody's of that id where no user is given."""
        if id is None and (name is None or owner is None):
            raise ValueError("neither an id nor an owner's name for it is given")
        query = select(*_COLUMNS)
        if owner is not None:
            query = query.where(accounts.c.owner == owner)
        if id is not None:
            query = query.where(accounts.c.id == id)
        if name is not None:
            query = query.where(accounts.c.name == name)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return _account(row) if row else None

    def list(self, owner: str | None = None) -> list[StoredAccount]:
        query = select(*_COLUMNS).order_by(accounts.c.id)
        if owner is not None:
            query = query.where(accounts.c.owner == owner)
        with reading(self._engine) as connection:
            return [_account(row) for row in connection.execute(query)]

    def page(self, owner: str, listing: Listing, *, platforms: Collection[str] | None = None) -> Page[StoredAccount]:
        """Those of the user's accounts that are wanted, or of them those of some platforms. Raises `InvalidRequest`."""
        query = select(*_COLUMNS).where(accounts.c.owner == owner)
        if platforms is not None:
            query = query.where(accounts.c.platform.in_(platforms))
        with reading(self._engine) as connection:
            found = select_page(connection, query, _FIELDS, listing)
        return Page(found.total, [_account(row) for row in found.items])

    def update(
        self,
        owner: str,
        id: int,
        *,
        name: str | None = None,
        fields: dict[str, Any] | None = None,
        sealed_secrets: bytes | None = None,
    ) -> StoredAccount:
        """Replace what is given; `fields` one by one, `sealed_secrets` as a whole. What is not given is kept.

        Raises `InvalidRequest` for a bad name, `NotFound`, or `Conflict` where another one has the name.
        """
        mine = accounts.c.owner == owner, accounts.c.id == id
        values: dict[str, Any] = {"modified": db_now()}
        if name is not None:
            values["name"] = check_name(name, "name")
        if sealed_secrets is not None:
            values["sealed_secrets"] = sealed_secrets
        try:
            with writing(self._engine) as connection:
                # Held until the end: of two changes at the same time, neither undoes the other's fields.
                row = connection.execute(select(accounts.c.fields).where(*mine).with_for_update()).one_or_none()
                if row is None:
                    raise _none(owner, id)
                values["fields"] = row.fields | (fields or {})
                changed = update(accounts).where(*mine).values(values).returning(*_COLUMNS)
                account = _account(connection.execute(changed).one())
                given = {"name": name, "secrets": sealed_secrets}
                parts = sorted([each for each, value in given.items() if value is not None] + list(fields or {}))
                audit_change(connection, "account.change", account_uri(owner, id), detail=", ".join(parts))
                return account
        except IntegrityError:
            raise _taken(name or "") from None

    def remove(self, owner: str, id: int) -> None:
        """Tickets that were published with it keep what they need of it. Raises `NotFound`."""
        with writing(self._engine) as connection:
            gone = delete(accounts).where(accounts.c.owner == owner, accounts.c.id == id)
            if connection.execute(gone).rowcount != 1:
                raise _none(owner, id)
            audit_change(connection, "account.delete", account_uri(owner, id))


def _none(owner: str, id: int) -> NotFound:
    return NotFound(f"{owner} has no account {id}")


def _taken(name: str) -> Conflict:
    return Conflict(f"there is an account '{name}' already")


def _account(row: Row[Any]) -> StoredAccount:
    return StoredAccount(**row._mapping)
