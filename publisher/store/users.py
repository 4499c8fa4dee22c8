"""Users, their password hashes and entitlements, and roles: named sets of entitlements."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import quote

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION
from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Row,
    String,
    bindparam,
    delete,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, InvalidRequest, NotAllowed, NotFound
from publisher.core.image import Image
from publisher.core.names import check_line, check_name
from publisher.core.ticket import Ticket
from publisher.core.uris import user_uri
from publisher.store.database import (
    api_keys,
    audit_change,
    db_now,
    images,
    keep_others_out,
    next_id,
    reading,
    roles,
    sessions,
    tickets,
    users,
    writing,
)
from publisher.store.prepared import Prepared, is_one_of
from publisher.store.ticket_rows import Extent, extent_columns, ticket_and_image

ENTITLEMENT_DESCRIPTIONS = {
    "image_publish": "Publish images; follow, cancel and delete tickets",
    "image_generate": "List images and published images",
    "appliance_create": "See appliances and what belongs to them",
    "cloud_account_create": "Store and change cloud accounts",
    "cloud_account_delete": "Delete cloud accounts",
    "api_key_access": "List, create and delete API keys",
}
ENTITLEMENTS = tuple(ENTITLEMENT_DESCRIPTIONS)
"""All entitlements, by their names in the publishing API."""

_NAME_MAX = 64

_hasher = PasswordHasher()


def webhook_uri(login: str) -> str:
    return f"{user_uri(login)}/webhook"


def role_uri(name: str) -> str:
    """Return the name of a role in the audit log; the API has no such URI."""
    return f"roles/{quote(name, safe='')}"


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    description: str
    entitlements: frozenset[str]
    created: float
    id: int


@dataclass(frozen=True, slots=True)
class User:
    """A user. `entitlements` are those given directly; the roles give further ones."""

    login: str
    administrator: bool
    entitlements: frozenset[str]
    created: float
    id: int
    roles: tuple[Role, ...] = ()

    def may(self, entitlement: str) -> bool:
        return (
            self.administrator
            or entitlement in self.entitlements
            or any(entitlement in role.entitlements for role in self.roles)
        )

    def require(self, entitlement: str) -> None:
        """Check that the user has the entitlement. Raises `NotAllowed`."""
        if not self.may(entitlement):
            raise NotAllowed(f"the entitlement '{entitlement}' is needed for this")


@dataclass(frozen=True, slots=True)
class Notify:
    """A user's webhook, if it has one, and the secret that signs its messages."""

    url: str | None = field(repr=False)
    sealed_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class CallerRow:
    """What one statement reads of a caller, and of the ticket that the caller asks for."""

    user: User
    password_hash: str = field(repr=False)
    sealed_secret: bytes | None = field(default=None, repr=False)
    """The sealed secret of the API key that the caller was found by."""
    ticket: Ticket | None = None
    """The wanted ticket, whoever owns it. With `Extent.STATUS` it has only what its status shows."""
    image: Image | None = None
    """With `Extent.WHOLE`, the image that now has the number of the ticket's image."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A caller that is looked for, by its login or by its API key's public key, and what to read of a ticket."""

    who: str
    by_key: bool = False
    beside: Extent | None = None
    ticket_id: int = 0


class Users:
    """Users and what they may do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        login: str,
        password: str,
        *,
        administrator: bool = False,
        entitlements: frozenset[str] = frozenset(ENTITLEMENTS),
        roles: frozenset[str] = frozenset(),
    ) -> User:
        """Add a user.

        Raises `InvalidRequest` for a bad login, password, entitlement or role, `Conflict` if the login is taken.
        """
        check_name(login, "login")
        if set(login) & set("/:?# ") or login in (".", ".."):
            raise InvalidRequest("must not be . or .., or contain '/', ':', '?', '#' or a space", field="login")
        if not password:
            raise InvalidRequest("must not be empty", field="password")
        check_entitlements(entitlements)
        row: dict[str, Any] = {
            "login": login,
            "password_hash": _hasher.hash(password),
            "administrator": administrator,
            "entitlements": sorted(entitlements),
            "roles": sorted(roles),
            "created": db_now(),
        }
        try:
            with writing(self._engine) as connection:
                given = _existing(connection, roles)
                keep_others_out(connection, users)
                row["id"] = next_id(connection, users)
                added = _user(connection.execute(insert(users).values(row).returning(users)).one(), given)
                may = "everything" if administrator else ", ".join(sorted(entitlements | roles))
                audit_change(connection, "user.create", user_uri(login), detail=f"may: {may}")
                return added
        except IntegrityError:
            raise Conflict(f"there is a user '{login}' already") from None

    def set_password(self, login: str, password: str) -> str:
        """Change a password and end the user's sessions. Return the new hash. Raises `NotFound`."""
        password_hash = _hasher.hash(password)  # slow, so done before the transaction, which blocks other writers
        with writing(self._engine) as connection:
            change = update(users).where(users.c.login == login).values(password_hash=password_hash)
            if connection.execute(change).rowcount != 1:
                raise _none(login)
            connection.execute(delete(sessions).where(sessions.c.login == login))
            audit_change(connection, "user.password", user_uri(login))
            return password_hash

    def notify(self, login: str) -> Notify:
        """Return a user's webhook. Raises `NotFound`."""
        query = select(users.c.notify_url, users.c.sealed_notify_secret).where(users.c.login == login)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _none(login)
        return Notify(row.notify_url, row.sealed_notify_secret)

    def set_notify(self, login: str, url: str | None, sealed_secret: bytes | None) -> None:
        """Set or remove a user's webhook. Raises `NotFound`."""
        with writing(self._engine) as connection:
            values = {"notify_url": url, "sealed_notify_secret": sealed_secret}
            change = update(users).where(users.c.login == login).values(values)
            if connection.execute(change).rowcount != 1:
                raise _none(login)
            audit_change(connection, "user.notify", webhook_uri(login))

    def change_roles(
        self, login: str, *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> User:
        """Give a user roles and take others away.

        Raises `NotFound` if the user is missing, and `InvalidRequest` for a role that does not exist, that the user
        does not have, or that is in both sets.
        """
        if both := add & remove:
            raise InvalidRequest(f"both given and taken away: {', '.join(sorted(both))}", field="roles")
        with writing(self._engine) as connection:
            query = select(users).where(users.c.login == login).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise _none(login)
            if lacking := remove - set(row.roles):
                raise InvalidRequest(f"'{login}' does not have: {', '.join(sorted(lacking))}", field="roles")
            _existing(connection, add)
            names = sorted((set(row.roles) | add) - remove)
            change = update(users).where(users.c.login == login).values(roles=names).returning(users)
            given = [f"+{name}" for name in sorted(add)] + [f"-{name}" for name in sorted(remove)]
            audit_change(connection, "user.roles", user_uri(login), detail=", ".join(given))
            return _user(connection.execute(change).one(), roles_named(connection, names))

    def change_rights(self, login: str, *, administrator: bool, entitlements: frozenset[str]) -> User:
        """Set what a user may do directly; its roles may give more.

        Raises `NotFound`, `InvalidRequest` for an unknown entitlement, or `Conflict` if the user is the last
        administrator.
        """
        check_entitlements(entitlements)
        with writing(self._engine) as connection:
            # If two administrators demote each other at the same time, one must stay.
            keep_others_out(connection, users)
            mine = update(users).where(users.c.login == login).returning(users)
            row = connection.execute(
                mine.values(administrator=administrator, entitlements=sorted(entitlements))
            ).one_or_none()
            if row is None:
                raise _none(login)
            _check_administrators(connection, login)
            may = "everything" if administrator else ", ".join(sorted(entitlements)) or "nothing"
            audit_change(connection, "user.rights", user_uri(login), detail=f"may: {may}")
            return _user(row, roles_named(connection, row.roles))

    def remove(self, login: str) -> None:
        """Delete a user. Raises `NotFound`, or `Conflict` if the user owns images or is the last administrator."""
        try:
            with writing(self._engine) as connection:
                # If two administrators delete each other at the same time, one must stay.
                keep_others_out(connection, users)
                if connection.execute(delete(users).where(users.c.login == login)).rowcount != 1:
                    raise _none(login)
                _check_administrators(connection, login)
                audit_change(connection, "user.delete", user_uri(login))
        except IntegrityError:
            raise Conflict(f"'{login}' still owns images") from None

    def get(self, login: str) -> User | None:
        found = self.caller(login)
        return found.user if found else None

    def owner(self, user: User, login: str) -> str:
        """Return the login whose objects a path names: the user's own, or anybody's for an administrator.

        Raises `NotFound` for other users' objects, as if they did not exist.
        """
        if user.login == login or (user.administrator and "\0" not in login and self.get(login)):
            return login
        raise NotFound(f"there is no user '{login}'")

    def list(self) -> list[User]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(users).order_by(users.c.login)).all()
            known = roles_named(connection, (name for row in rows for name in row.roles))
        return [_user(row, known) for row in rows]

    def caller(self, login: str, beside: Extent | None = None, ticket_id: int = 0) -> CallerRow | None:
        """Return a user and, if `beside` says so, a ticket. One statement reads both."""
        return self._caller(Sought(login, beside=beside, ticket_id=ticket_id))

    def callers(self, group: Sequence[Sought]) -> Sequence[CallerRow | None]:
        """Return the users or key owners that are sought, each with the wanted ticket; None for those that are missing.

        A single one is read in one statement with its ticket. For several, one statement reads all users, one all
        owners of keys, and one all tickets of the same extent.
        """
        if len(group) == 1:
            return [self._caller(group[0])]
        rows: dict[tuple[str, bool], CallerRow] = {}
        ticket_rows: dict[tuple[Extent, int], tuple[Ticket | None, Image | None]] = {}
        with reading(self._engine) as connection:
            for by_key in (False, True):
                if who := sorted({each.who for each in group if each.by_key is by_key}):
                    query = _caller_query(self._engine.dialect.name, by_key, None, several=True)
                    rows |= {(each, by_key): row for each, row in _callers(connection, query, who).items()}
            for extent in Extent:
                if ids := sorted({each.ticket_id for each in group if each.beside is extent}):
                    for id, *values in _tickets_query(extent).rows(connection, tickets=ids):
                        ticket_rows[extent, id] = ticket_and_image(extent, values)
        found: list[CallerRow | None] = []
        for each in group:
            row = rows.get((each.who, each.by_key))
            if row and each.beside:
                ticket, image = ticket_rows.get((each.beside, each.ticket_id), (None, None))
                row = replace(row, ticket=ticket, image=image)
            found.append(row)
        return found

    def _caller(self, sought: Sought) -> CallerRow | None:
        query = _caller_query(self._engine.dialect.name, sought.by_key, sought.beside)
        given: dict[str, Any] = {"who": sought.who} | ({"ticket": sought.ticket_id} if sought.beside else {})
        with reading(self._engine) as connection:
            rows = query.rows(connection, **given)
        if not rows:
            return None
        row = _caller_of(rows)
        if sought.beside is None:
            return row
        ticket, image = ticket_and_image(sought.beside, rows[0][_AT_TICKET:])
        return replace(row, ticket=ticket, image=image)


class Roles:
    """Roles, by name."""

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
            raise InvalidRequest("needs at least one", field="entitlements")
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
                raise Conflict(f"'{name}' is a role of {', '.join(having)}; remove it from them first")
            audit_change(connection, "role.delete", role_uri(name))


def verify_password(stored_hash: str | None, password: str) -> bool:
    """Check a password. Takes as long for an unknown login (`None`) as for a known one."""
    try:
        return _hasher.verify(_unknown_hash() if stored_hash is None else stored_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _unknown_hash() -> str:
    """Return a hash that no password matches. Checking against it takes as long as against a real one."""
    salt, digest = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (_hasher.salt_len, _hasher.hash_len))
    costs = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"


def _none(login: str) -> NotFound:
    return NotFound(f"there is no user '{login}'")


def _check_administrators(connection: Connection, login: str) -> None:
    """Check that a change to this user leaves an administrator. Raises `Conflict`."""
    left = select(func.count()).select_from(users).where(users.c.administrator)
    if connection.execute(left).scalar_one() == 0:
        raise Conflict(f"'{login}' is the last administrator")


def _existing(connection: Connection, names: frozenset[str]) -> tuple[Role, ...]:
    """Return these roles, locked until the transaction ends. Raises `InvalidRequest` if one is missing."""
    found = roles_named(connection, names, keep=True) if names else ()
    if unknown := names - {role.name for role in found}:
        raise InvalidRequest(f"there is no role {', '.join(sorted(unknown))}", field="roles")
    return found


def _user(row: Row[Any], known: Iterable[Role]) -> User:
    held = tuple(role for role in known if role.name in row.roles)
    return User(row.login, row.administrator, frozenset(row.entitlements), row.created, row.id, held)


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
    return _role_of([row._mapping[each] for each in _ROLE_COLUMNS])


def _role_of(values: Sequence[Any]) -> Role:
    name, description, entitlements, created, id = values
    return Role(name, description, frozenset(entitlements), created, id)


# The caller of a request and the wanted ticket, in one statement ------------------------------------------------------

_ROLE_COLUMNS = [roles.c[name] for name in ("name", "description", "entitlements", "created", "id")]
_USER_COLUMNS = [users.c[name] for name in ("login", "administrator", "entitlements", "created", "id", "password_hash")]
_AT_ROLE = len(_USER_COLUMNS) + 1
_AT_WHO = _AT_ROLE + len(_ROLE_COLUMNS)
_AT_TICKET = _AT_WHO + 1


def _caller_of(rows: Sequence[tuple[Any, ...]]) -> CallerRow:
    """Build a caller from its rows of `_caller_query`: one for each role."""
    held = tuple(_role_of(row[_AT_ROLE:_AT_WHO]) for row in rows if row[_AT_ROLE] is not None)
    login, administrator, entitlements, created, id, password_hash, sealed_secret = rows[0][:_AT_ROLE]
    user = User(login, administrator, frozenset(entitlements), created, id, held)
    return CallerRow(user, password_hash, sealed_secret)


def _callers(connection: Connection, query: Prepared, who: Sequence[str]) -> dict[str, CallerRow]:
    """Read several callers, by their logins or by their keys."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for row in query.rows(connection, who=who):
        rows.setdefault(row[_AT_WHO], []).append(row)
    return {each: _caller_of(of_one) for each, of_one in rows.items()}


@cache
def _caller_query(database: str, by_key: bool, beside: Extent | None, *, several: bool = False) -> Prepared:
    """Select the user `:who`, or the owner of that API key, with the user's roles and the ticket `:ticket`; or
    `several` of them, without a ticket.

    Built once, because building it takes longer than executing it.
    """
    if database == "postgresql":
        held = select(func.json_array_elements_text(users.c.roles).column_valued("held"))
    else:
        held = select(func.json_each(users.c.roles).table_valued("value").c.value)
    key = api_keys.c.sealed_secret if by_key else null()
    found = users.outerjoin(roles, roles.c.name.in_(held.correlate(users)))
    if by_key:
        found = found.join(api_keys, api_keys.c.owner == users.c.login)
    if beside is not None:
        found = found.outerjoin(tickets, tickets.c.id == bindparam("ticket", type_=BigInteger))
    if beside is Extent.WHOLE:
        found = found.outerjoin(images, images.c.id == tickets.c.image_id)
    who = api_keys.c.public_key if by_key else users.c.login
    columns = *_USER_COLUMNS, key, *_ROLE_COLUMNS, who, *(extent_columns(beside) if beside else ())
    query = select(*columns).select_from(found).order_by(roles.c.name)
    return Prepared(query.where(is_one_of(who, "who") if several else who == bindparam("who", type_=String)))


@cache
def _tickets_query(extent: Extent) -> Prepared:
    """Select the tickets `:tickets`, with their ids before the columns of the extent."""
    found = tickets.outerjoin(images, images.c.id == tickets.c.image_id) if extent is Extent.WHOLE else tickets
    query = select(tickets.c.id, *extent_columns(extent)).select_from(found)
    return Prepared(query.where(is_one_of(tickets.c.id, "tickets")))
