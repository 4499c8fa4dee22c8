"""Stored cloud accounts, which publish requests can name. Their secrets arrive sealed and stay sealed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, NotFound
from publisher.core.listing import ListField, ListFieldKind, Listing, Page
from publisher.core.names import check_name
from publisher.core.uris import parse_uri, uri_pattern, user_uri
from publisher.store.database import accounts, audit_change, db_now, reading, writing
from publisher.store.list_queries import NUMBER, Fields, select_page


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """A user's account. `fields` are the platform's elements of credAccount in the wire contract, without secrets."""

    id: int
    owner: str
    name: str
    platform: str
    fields: dict[str, Any]
    sealed_secrets: bytes = field(repr=False)
    created: float
    modified: float
    explored: dict[str, Any] | None = None
    """What the last test of the account found (`Explored`); None if it was not tested since it was changed."""


# As stored, or as a ticket names it.
_URI = uri_pattern("(?:appliances/[0-9]+/images/[0-9]+/pimages/[0-9]+/)?accounts/ID")


def account_uri(login: str, account_id: int) -> str:
    return f"{user_uri(login)}/accounts/{account_id}"


def parse_account_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and account id. Raises `InvalidRequest`."""
    login, (account_id,) = parse_uri(uri, _URI, "users/USER/accounts/3", field)
    return login, account_id


_COLUMNS = [accounts.c[each.name] for each in fields(StoredAccount)]
_FIELDS: Fields = {
    NUMBER: ListField(accounts.c.id, ListFieldKind.NUMBER),
    "created": ListField(accounts.c.created, ListFieldKind.TIME),
    "lastModified": ListField(accounts.c.modified, ListFieldKind.TIME),
    "name": ListField(accounts.c.name),
    "targetPlatform.name": ListField(accounts.c.platform, ListFieldKind.NAME),
    "targetPlatform.type": ListField(accounts.c.platform, ListFieldKind.NAME),
}
"""The fields by which a list of accounts can be filtered and ordered."""


class Accounts:
    """Users' stored accounts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self, *, owner: str, name: str, platform: str, fields: dict[str, Any], sealed_secrets: bytes
    ) -> StoredAccount:
        """Store an account.

        Raises `InvalidRequest` for a bad name, `Conflict` if the owner has an account of that name or does not exist.
        """
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
        """Return an account. Raises `NotFound` if it is missing or belongs to someone else."""
        found = self.find(owner, id=id)
        if found is None:
            raise _none(owner, id)
        return found

    def find(self, owner: str | None, *, id: int | None = None, name: str | None = None) -> StoredAccount | None:
        """Return the account with this id, this name, or both; None if there is none.

        Without an owner, finds any user's account with this id.
        """
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
        """Return the wanted part of a user's accounts, if given only those of `platforms`. Raises `InvalidRequest`."""
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
        """Change an account; values that are not given stay.

        `fields` are replaced one by one, `sealed_secrets` as a whole.
        Raises `InvalidRequest` for a bad name, `NotFound`, or `Conflict` if another account has the name.
        """
        mine = accounts.c.owner == owner, accounts.c.id == id
        values: dict[str, Any] = {"modified": db_now()}
        if name is not None:
            values["name"] = check_name(name, "name")
        if sealed_secrets is not None:
            values["sealed_secrets"] = sealed_secrets
        if fields or sealed_secrets is not None:
            values["explored"] = null()
        try:
            with writing(self._engine) as connection:
                # Locked until the end, so that two concurrent changes do not overwrite each other's fields.
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
        """Delete an account. Tickets that used it keep their copy. Raises `NotFound`."""
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
