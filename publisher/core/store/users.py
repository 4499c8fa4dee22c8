"""Users, their password hashes and entitlements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.store.engine import db_now, reading, writing
from publisher.core.store.tables import users

ENTITLEMENTS = (
    "image_publish",
    "image_generate",
    "appliance_create",
    "cloud_account_create",
    "cloud_account_delete",
    "api_key_access",
)
"""What a user may be allowed, by the names of the publishing API."""

_hasher = PasswordHasher()
_DUMMY_HASH = _hasher.hash("no such user")


@dataclass(frozen=True, slots=True)
class User:
    login: str
    administrator: bool
    entitlements: frozenset[str]

    def may(self, entitlement: str) -> bool:
        return self.administrator or entitlement in self.entitlements


class Users:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        login: str,
        password: str,
        *,
        administrator: bool = False,
        entitlements: frozenset[str] = frozenset(ENTITLEMENTS),
    ) -> User:
        """Raises `InvalidRequest` for a bad login, password or entitlement, `Conflict` where the login is taken."""
        if not login or len(login) > 255 or not login.isprintable() or set(login) & set("/:?# "):
            raise InvalidRequest(
                "a login has 1 to 255 printable characters, none of them '/', ':', '?', '#', space",
                field="login",
            )
        if not password:
            raise InvalidRequest("must not be empty", field="password")
        if unknown := entitlements - set(ENTITLEMENTS):
            raise InvalidRequest(
                f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(ENTITLEMENTS)}",
                field="entitlements",
            )
        row = {
            "login": login,
            "password_hash": _hasher.hash(password),
            "administrator": administrator,
            "entitlements": sorted(entitlements),
            "created": db_now(),
        }
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(users).values(row))
        except IntegrityError:
            raise Conflict(f"there is a user '{login}' already") from None
        return User(login, administrator, entitlements)

    def set_password(self, login: str, password: str) -> None:
        """Raises `NotFound`."""
        with writing(self._engine) as connection:
            change = update(users).where(users.c.login == login).values(password_hash=_hasher.hash(password))
            if connection.execute(change).rowcount != 1:
                raise NotFound(f"there is no user '{login}'")

    def remove(self, login: str) -> None:
        """Raises `NotFound`, or `Conflict` where the user owns images or is the last administrator."""
        try:
            with writing(self._engine) as connection:
                if connection.execute(delete(users).where(users.c.login == login)).rowcount != 1:
                    raise NotFound(f"there is no user '{login}'")
                left = select(func.count()).select_from(users).where(users.c.administrator)
                if connection.execute(left).scalar_one() == 0:
                    raise Conflict(f"'{login}' is the last administrator")
        except IntegrityError:
            raise Conflict(f"'{login}' still owns images") from None

    def get(self, login: str) -> User | None:
        row = self._row(login)
        return _user(row) if row else None

    def list(self) -> list[User]:
        with reading(self._engine) as connection:
            return [_user(row) for row in connection.execute(select(users).order_by(users.c.login))]

    def password_hash(self, login: str) -> str | None:
        row = self._row(login)
        return str(row.password_hash) if row else None

    def _row(self, login: str) -> Row[Any] | None:
        with reading(self._engine) as connection:
            return connection.execute(select(users).where(users.c.login == login)).one_or_none()


def verify_password(stored_hash: str | None, password: str) -> bool:
    """Takes as long for a login that does not exist (`None`) as for one that does."""
    try:
        return _hasher.verify(_DUMMY_HASH if stored_hash is None else stored_hash, password) and stored_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def _user(row: Row[Any]) -> User:
    return User(row.login, row.administrator, frozenset(row.entitlements))
