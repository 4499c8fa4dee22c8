"""Who calls, and whether they may."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict

from publisher.core.errors import NotAllowed, NotAuthenticated, NotFound
from publisher.core.store import Store
from publisher.core.store.users import User, verify_password

_CACHED_MAX = 10_000
_HASHING_AT_ONCE = 2
"""Each verification takes 64 MiB and a core for some 50 ms (argon2id): more at a time would only be a burden."""


class Authenticator:
    """HTTP Basic over the user store. A password once verified is not hashed again for a while."""

    def __init__(self, store: Store, cache_seconds: float) -> None:
        self._store = store
        self._cache_seconds = cache_seconds
        self._pepper = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        self._hashing = threading.BoundedSemaphore(_HASHING_AT_ONCE)

    def user(self, authorization: str | None) -> User:
        """The user of an `Authorization` header. Raises `NotAuthenticated`."""
        login, password = _basic(authorization)
        stored = self._store.users.password_hash(login)
        if not self._verify(login, password, stored):
            raise NotAuthenticated("the login or the password is wrong")
        user = self._store.users.get(login)
        if user is None:
            raise NotAuthenticated("the login or the password is wrong")
        return user

    def _verify(self, login: str, password: str, stored: str | None) -> bool:
        # The stored hash is part of the key: a changed password makes what was cached useless at once.
        said = "\0".join((login, password, stored or "")).encode()
        key = hmac.digest(self._pepper, said, hashlib.sha256)
        now = time.monotonic()
        with self._lock:
            if stored is not None and self._verified.get(key, 0.0) > now:
                return True
        with self._hashing:
            right = verify_password(stored, password)
        if right:
            with self._lock:
                self._verified[key] = now + self._cache_seconds
                while len(self._verified) > _CACHED_MAX:
                    self._verified.popitem(last=False)
        return right


def owner(store: Store, user: User, login: str) -> str:
    """Whose objects the path names: the user's own, or anybody's for an administrator. Raises `NotFound`, so that
    other users' objects cannot be told from none."""
    if user.login == login or (user.administrator and "\0" not in login and store.users.get(login)):
        return login
    raise NotFound(f"there is no user '{login}'")


def require(user: User, entitlement: str) -> None:
    """Raises `NotAllowed`."""
    if not user.may(entitlement):
        raise NotAllowed(f"the entitlement '{entitlement}' is needed for this")


def _basic(authorization: str | None) -> tuple[str, str]:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        raise NotAuthenticated("sign in with HTTP Basic")
    try:
        login, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:  # neither base64 nor ASCII, or not UTF-8
        raise NotAuthenticated("the Authorization header cannot be read") from None
    # No login has a NUL, and PostgreSQL could not be asked for one.
    if not colon or "\0" in login:
        raise NotAuthenticated("the Authorization header cannot be read")
    return login, password
