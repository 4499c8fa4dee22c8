"""Roles: named sets of entitlements. Users refer to them by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.names import check_line, check_name
from publisher.core.uris import role_uri
from publisher.store.audit import audit_change
from publisher.store.engine import db_now, keep_others_out, next_id, reading, writing
from publisher.store.tables import roles, users

ENTITLEMENT_DESCRIPTIONS = {
    "image_publish": "Publish images, follow, cancel and delete their publication",
    "image_generate": "List one's images and published images",
    "appliance_create": "See appliances and what belongs to them",
    "cloud_account_create": "Store and change cloud accounts",
    "cloud_account_delete": "Delete cloud accounts",
    "api_key_access": "List, create and delete API keys",
}
ENTITLEMENTS = tuple(ENTITLEMENT_DESCRIPTIONS)
"""All entitlements, by their names in the publishing API."""

_NAME_MAX = 64


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    description: str
    entitlements: frozenset[str]
    created: float
    id: int


class Roles:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, *, entitlements: frozenset[str], description: str = "") -> Role:
        """Add a role.

        Raises `InvalidRequest` for a bad name, description or entitlement, `Conflict` if the name is taken.
        """
        check_name(name, "name", longest=_NAME_MAX)
        check_line(description, "description")
        check_entitlements(entitlements)
        if not entitlements:
            raise InvalidRequest("a role has at least one", field="entitlements")
        row: dict[str, Any] = {
            "name": name,
            "description": description,
            "entitlements": sorted(entitlements),
            "created": db_now(),
        }
        try:
            with writing(self._engine) as connection:
                keep_others_out(connection, roles)
                row["id"] = next_id(connection, roles)
                added = _role(connection.execute(insert(roles).values(row).returning(roles)).one())
                audit_change(connection, "role.create", role_uri(name), detail=", ".join(sorted(entitlements)))
                return added
        except IntegrityError:
            raise Conflict(f"there is a role '{name}' already") from None

    def list(self) -> list[Role]:
        with reading(self._engine) as connection:
            return [_role(row) for row in connection.execute(select(roles).order_by(roles.c.name))]

    def remove(self, name: str) -> None:
        """Delete a role. Raises `NotFound`, or `Conflict` if a user has the role."""
        with writing(self._engine) as connection:
            # Delete first: giving the role to a user at this moment waits for us and then finds no such role.
            if connection.execute(delete(roles).where(roles.c.name == name)).rowcount != 1:
                raise NotFound(f"there is no role '{name}'")
            everyone = connection.execute(select(users.c.login, users.c.roles).order_by(users.c.login))
            if having := [row.login for row in everyone if name in row.roles]:
                raise Conflict(f"'{name}' is a role of {', '.join(having)}; take it from them first")
            audit_change(connection, "role.delete", role_uri(name))


def check_entitlements(entitlements: Iterable[str]) -> None:
    """Check that these entitlements exist. Raises `InvalidRequest`."""
    if unknown := set(entitlements) - set(ENTITLEMENTS):
        raise InvalidRequest(
            f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(ENTITLEMENTS)}",
            field="entitlements",
        )


def roles_named(connection: Connection, names: Iterable[str], *, keep: bool = False) -> tuple[Role, ...]:
    """Return those of these roles that exist, by name. `keep` locks them until the transaction ends."""
    query = select(roles).where(roles.c.name.in_(sorted(set(names)))).order_by(roles.c.name)
    if keep:
        query = query.with_for_update(read=True)
    return tuple(_role(row) for row in connection.execute(query))


def _role(row: Row[Any]) -> Role:
    return Role(row.name, row.description, frozenset(row.entitlements), row.created, row.id)
