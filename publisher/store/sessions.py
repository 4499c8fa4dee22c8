"""Console sessions. The table has only digests of the cookies, so that nobody can sign in with its contents."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Engine, delete, insert, or_, select, update
from sqlalchemy.exc import OperationalError

from publisher.core.errors import NotAuthenticated
from publisher.store.database import db_now, reading, sessions, users, writing

_VALUE_BYTES = 32
_SEEN_SECONDS = 60.0
"""How often a session's activity is recorded at most, instead of with each request."""


@dataclass(frozen=True, slots=True)
class Session:
    """A console session. Times are seconds since the epoch, by the database's clock."""

    login: str
    csrf: str = field(repr=False)
    """The token that each form of the session must send back."""
    created: float
    expires: float


@dataclass(frozen=True, slots=True)
class SignedIn:
    """One of a user's sessions, as shown to the user. Its `id` can end the session but not sign in."""

    id: str
    created: float
    seen: float
    expires: float


class Sessions:
    """Console sessions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, login: str, password_hash: str, *, seconds: float, idle_seconds: float) -> tuple[str, Session]:
        """Sign a user in for `seconds` at most. Return the value of the cookie, which is not stored, and the session.

        Deletes expired sessions. Raises `NotAuthenticated` if the user's password is no longer the verified one, with
        this hash.
        """
        value, csrf = secrets.token_urlsafe(_VALUE_BYTES), secrets.token_urlsafe(_VALUE_BYTES)
        row = {
            "digest": _digest(value),
            "login": login,
            "csrf": csrf,
            "created": db_now(),
            "seen": db_now(),
            "expires": db_now() + seconds,
        }
        expired = or_(sessions.c.expires <= db_now(), sessions.c.seen <= db_now() - idle_seconds)
        with writing(self._engine) as connection:
            # Locked until the end, so that a concurrent change of the password ends this session, too.
            same = select(users.c.login).where(users.c.login == login, users.c.password_hash == password_hash)
            if connection.execute(same.with_for_update(read=True)).one_or_none() is None:
                raise NotAuthenticated("the login or the password is wrong")
            connection.execute(delete(sessions).where(expired))
            times = sessions.c.created, sessions.c.expires
            begun = connection.execute(insert(sessions).values(row).returning(*times)).one()
        return value, Session(login, csrf, begun.created, begun.expires)

    def find(self, value: str, *, idle_seconds: float, seen: bool = True) -> Session | None:
        """Return the session of a cookie; None if it has ended or was idle for too long. `seen`: record activity."""
        query = select(sessions, (db_now() - sessions.c.seen).label("silent")).where(
            sessions.c.digest == _digest(value),
            sessions.c.expires > db_now(),
            sessions.c.seen > db_now() - idle_seconds,
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if seen and row.silent >= min(_SEEN_SECONDS, idle_seconds / 2):
            self._see(row.digest)
        return Session(row.login, row.csrf, row.created, row.expires)

    def _see(self, digest: str) -> None:
        """Record activity. Skipped if the store is busy: a read must not wait, and the next request records it."""
        with suppress(OperationalError), writing(self._engine, durable=False, wait_seconds=0.0) as connection:
            connection.execute(update(sessions).where(sessions.c.digest == digest).values(seen=db_now()))

    def end(self, value: str) -> None:
        """Sign out. Can be repeated."""
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == _digest(value)))

    def of(self, login: str, *, idle_seconds: float) -> Sequence[SignedIn]:
        """Return a user's sessions, newest first."""
        columns = sessions.c.digest, sessions.c.created, sessions.c.seen, sessions.c.expires
        going_on = sessions.c.expires > db_now(), sessions.c.seen > db_now() - idle_seconds
        query = select(*columns).where(sessions.c.login == login, *going_on).order_by(sessions.c.created.desc())
        with reading(self._engine) as connection:
            return [SignedIn(*row) for row in connection.execute(query)]

    def end_one(self, login: str, id: str) -> None:
        """End one of a user's own sessions. Can be repeated."""
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.login == login, sessions.c.digest == id))


def session_id(value: str) -> str:
    """Return the `id` of a cookie's session."""
    return _digest(value)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
