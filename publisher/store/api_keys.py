"""API keys. A caller signs its requests with the secret half of a key."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, NotFound
from publisher.core.uris import user_uri
from publisher.store.database import api_keys, audit_change, db_now, reading, writing


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret half, which is read only to check a signature (`ApiKeys.sealed_secret`)."""

    id: int
    owner: str
    name: str
    description: str
    public_key: str
    created: float


def api_key_uri(login: str, key_id: int) -> str:
    return f"{user_uri(login)}/apikeys/{key_id}"


_COLUMNS = [api_keys.c[each.name] for each in fields(ApiKey)]


class ApiKeys:
    """Users' API keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, *, owner: str, name: str, description: str, public_key: str, sealed_secret: bytes) -> ApiKey:
        """Store a key. Raises `Conflict` if the public key is taken or the owner unknown."""
        row = {
            "owner": owner,
            "name": name,
            "description": description,
            "public_key": public_key,
            "sealed_secret": sealed_secret,
            "created": db_now(),
        }
        try:
            with writing(self._engine) as connection:
                added = _api_key(connection.execute(insert(api_keys).values(row).returning(*_COLUMNS)).one())
                audit_change(connection, "key.create", api_key_uri(owner, added.id), detail=f"{name!r}, {public_key}")
                return added
        except IntegrityError:
            raise Conflict(f"there is no user '{owner}', or such a public key already") from None

    def list(self, owner: str | None) -> list[ApiKey]:
        """Return a user's keys, or the keys of all users if no owner is given."""
        query = select(*_COLUMNS).order_by(api_keys.c.id)
        if owner is not None:
            query = query.where(api_keys.c.owner == owner)
        with reading(self._engine) as connection:
            return [_api_key(row) for row in connection.execute(query)]

    def get(self, owner: str | None, id: int) -> ApiKey:
        """Return a key. Raises `NotFound` if it is missing or, with an owner given, belongs to someone else."""
        query = select(*_COLUMNS).where(api_keys.c.id == id)
        if owner is not None:
            query = query.where(api_keys.c.owner == owner)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _none(owner, id)
        return _api_key(row)

    def remove(self, owner: str, id: int) -> None:
        """Delete a key. Raises `NotFound` if it is missing or belongs to someone else."""
        with writing(self._engine) as connection:
            gone = delete(api_keys).where(api_keys.c.owner == owner, api_keys.c.id == id)
            if connection.execute(gone).rowcount != 1:
                raise _none(owner, id)
            audit_change(connection, "key.delete", api_key_uri(owner, id))

    def sealed_secret(self, public_key: str) -> tuple[str, bytes] | None:
        """Return the owner and the sealed secret of a key; None if there is no such key."""
        query = select(api_keys.c.owner, api_keys.c.sealed_secret).where(api_keys.c.public_key == public_key)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return (row.owner, row.sealed_secret) if row else None


def _none(owner: str | None, id: int) -> NotFound:
    return NotFound(f"{owner} has no API key {id}" if owner else f"there is no API key {id}")


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(**row._mapping)
