"""Authenticate callers, by password or by a signed request, and check what they may do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.concurrency import run_in_threadpool

from publisher.core.asking import Asking, alone, ask
from publisher.core.errors import NotAuthenticated
from publisher.core.names import check_name, check_text
from publisher.core.vault import Sealer
from publisher.store import ApiKey, CallerRow, Extent, Sought, Store, User, verify_password
from publisher.web.password_hashing import AllPlacesTaken, Hashing
from publisher.web.rate_limits import SignIns, network_of

_CACHED_MAX = 10_000

API_SECRET = "secretKey"  # noqa: S105  # the name under which an API key's secret is sealed

_PUBLIC_BYTES = 20
_SECRET_BYTES = 32

_BASE = b"/api"
_SIGNATURE = b"&signature="
_PUBLIC_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_SECRET = secrets.token_bytes(32).hex()
"""Stands in for the secret of an unknown key, so that the comparison takes as long."""


class Opener(Protocol):
    """The half of the vault that decrypts. The intake needs it only for API keys; workers decrypt clouds' secrets."""

    def open(self, sealed: bytes) -> dict[str, str]: ...


_SECRET_PARAMETERS = re.compile(r"(signature=|[?&](?:downloadId|id)=)[^&\s]+", re.IGNORECASE)


class NoSignatures(logging.Filter):
    """Removes signatures and download keys from the server's request log, whose readers could use them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SECRET_PARAMETERS.sub(r"\1...", each) if isinstance(each, str) else each for each in record.args
            )
        return True


_NO_SIGNATURES = NoSignatures()


def keep_signatures_out_of_logs() -> None:
    logging.getLogger("uvicorn.access").addFilter(_NO_SIGNATURES)


@dataclass(frozen=True, slots=True)
class KnownPassword:
    """A login and a password, and the hash that the password recently matched, if it is remembered."""

    login: str
    password: str = field(repr=False)
    hash: str | None = field(repr=False)


class Authenticator:
    """Authenticates HTTP Basic against the user store, and requests signed with an API key.

    A verified password is remembered for a while, so that it is not hashed again for each request.
    """

    def __init__(self, store: Store, cache_seconds: float, opener: Opener, sign_ins: SignIns) -> None:
        self._store = store
        self._sign_ins = sign_ins
        self._opener = opener
        self._cache_seconds = cache_seconds
        self._pepper = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._hashing = Hashing()

    def user(self, authorization: str | None, address: str) -> User:
        """Return the user of an `Authorization` header.

        Raises `NotAuthenticated`, or `TooMany` if too many sign-ins from `address` have failed.
        """
        return self.sign_in(*_basic(authorization), address)

    def sign_in(self, login: str, password: str, address: str, *, door: str = "api") -> User:
        """Return the user with this login and password. Raises the errors of `user`.

        An unknown login takes as long as a known one. `door` is for the audit log: `api` or `console`.
        """
        return self.verified(login, password, address, door=door)[0]

    def verified(self, login: str, password: str, address: str, *, door: str = "api") -> tuple[User, str]:
        """Return what `sign_in` returns, and the hash of the verified password."""
        try:
            known = KnownPassword(login, password, self._admitted(login, password, address))
        except AllPlacesTaken:
            self._note_refusal(login, address, door)
            raise
        found = alone(self._verified_row(known, address, door, Sought(login)))
        return found.user, found.password_hash

    def caller(
        self,
        raw_path: bytes,
        query: bytes,
        authorization: str | None,
        address: str,
        *,
        known: KnownPassword | None = None,
        beside: Extent | None = None,
        ticket_id: int = 0,
        takes_long: Callable[[], None] = lambda: None,
    ) -> Asking[CallerRow]:
        """Return who sent a request: who signed it if it names an API key, else the user of its `Authorization` header.

        `known` is the password in that header, if `check_admission` has found it. With the user, the ticket is read if
        `beside` says so. `takes_long` is called before a password is hashed. Raises the errors of `user`.
        """
        signed = yield from self._signer(raw_path, query, beside, ticket_id)
        if signed:
            return signed
        if known is None:
            login, password = _basic(authorization)
            try:
                known = KnownPassword(login, password, self._admitted(login, password, address))
            except AllPlacesTaken:
                self._note_refusal(login, address, "api")
                raise
        sought = Sought(known.login, beside=beside, ticket_id=ticket_id)
        return (yield from self._verified_row(known, address, "api", sought, takes_long))

    def _verified_row(
        self,
        known: KnownPassword,
        address: str,
        door: str,
        sought: Sought,
        takes_long: Callable[[], None] = lambda: None,
    ) -> Asking[CallerRow]:
        # No login has a NUL, and PostgreSQL refuses one in a query.
        found = None if "\0" in known.login else (yield from ask(self._store.users.callers, sought))
        stored = found.password_hash if found else None
        # After a change of the password, the remembered one no longer matches.
        right = known.hash is not None and known.hash == stored
        if not right:
            takes_long()
            right = self._verify(known.login, known.password, stored, address, door)
        if not right or not found:
            raise NotAuthenticated("the login or the password is wrong")
        return found

    async def check_admission(self, authorization: str, address: str) -> KnownPassword | None:
        """Return the password if it need not be hashed. Raises `TooMany` if `user` would raise that.

        It runs in the event loop, so that thousands of guesses a second are refused before they take a thread.
        """
        try:
            login, password = _basic(authorization)
        except NotAuthenticated:
            return None
        try:
            hash = self._admitted(login, password, address)
            return None if hash is None else KnownPassword(login, password, hash)
        except AllPlacesTaken:
            # Only the first refusal of a login is written, so only that one takes a thread.
            if words := self._sign_ins.count_refusal(login, address):
                await run_in_threadpool(self._sign_ins.note, words, login, address, door="api")
            raise

    def signer(self, raw_path: bytes, query: bytes) -> User | None:
        """Return the user whose API key signed the request target; None if it names no key, so that Basic decides.

        Raises `NotAuthenticated`.
        """
        found = alone(self._signer(raw_path, query))
        return found.user if found else None

    def _signer(
        self, raw_path: bytes, query: bytes, beside: Extent | None = None, ticket_id: int = 0
    ) -> Asking[CallerRow | None]:
        if b"apiKey" not in query and b"%" not in query:
            return None
        keys = [value for name, value in parse_qsl(query.decode("latin-1"), True) if name == "apiKey"]
        if not keys:
            return None
        before, mark, given = query.rpartition(_SIGNATURE)
        text = signed_text(raw_path, before)
        if len(keys) > 1 or not mark or text is None:
            raise NotAuthenticated("a signed request must have one apiKey, and must end with its signature")
        found = None
        if _PUBLIC_KEY.fullmatch(keys[0]):
            sought = Sought(keys[0], by_key=True, beside=beside, ticket_id=ticket_id)
            found = yield from ask(self._store.users.callers, sought)
        secret = self._opener.open(found.sealed_secret)[API_SECRET] if found and found.sealed_secret else _NO_SECRET
        right = hmac.compare_digest(signature(secret, text), unquote_to_bytes(given.replace(b"+", b" ")))
        if found is None or not right:
            raise NotAuthenticated("the API key or the signature is wrong")
        return found

    def _verify(self, login: str, password: str, stored: str | None, address: str, door: str) -> bool:
        """Hash the password when its turn comes, and return whether it is right. Raises `TooMany`."""
        to_note: list[str] = []

        def verify() -> bool:
            # Check again: thousands may come at once, and only as many as are allowed may be hashed.
            self._sign_ins.check(login, address)
            right = verify_password(stored, password)
            if right:
                self._sign_ins.succeeded(login, address)
            else:
                to_note.extend(self._sign_ins.count_failure(login, address))
            return right

        try:
            right = self._hashing.verify(network_of(address), verify)
        except AllPlacesTaken:
            self._note_refusal(login, address, door)
            raise
        self._sign_ins.note(to_note, login, address, door=door)
        if right and stored is not None:
            self._remember(login, password, stored)
        return right

    def _admitted(self, login: str, password: str, address: str) -> str | None:
        """Return the hash that this password recently matched; None if it must be hashed and a turn is free.

        Raises `TooMany` without waiting, not even for the store.
        """
        # This comes first: otherwise a guesser could recognise the right password because it is remembered.
        self._sign_ins.check_login(login, address)
        remembered = self._remembered(login, password)
        if remembered is None:
            self._sign_ins.check(login, address)
            self._hashing.check_room(network_of(address))
        return remembered

    def _note_refusal(self, login: str, address: str, door: str) -> None:
        self._sign_ins.note(self._sign_ins.count_refusal(login, address), login, address, door=door)

    def _remembered(self, login: str, password: str) -> str | None:
        """Return the hash that the password matched; None if it was not used for too long.

        Each use prolongs that time: otherwise many callers with one login would all hash at the moment when it ends,
        and some would find no turn free.
        """
        key, now = self._key(login, password), time.monotonic()
        with self._lock:
            stored, until = self._verified.get(key, ("", 0.0))
            if until <= now:
                return None
            self._verified[key] = stored, now + self._cache_seconds
            self._verified.move_to_end(key)
            return stored

    def _remember(self, login: str, password: str, stored: str) -> None:
        with self._lock:
            self._verified[self._key(login, password)] = stored, time.monotonic() + self._cache_seconds
            while len(self._verified) > _CACHED_MAX:
                self._verified.popitem(last=False)

    def _key(self, login: str, password: str) -> bytes:
        # Faster than an HMAC, for which the interpreter changes threads.
        return hashlib.blake2b("\0".join((login, password)).encode(), key=self._pepper, digest_size=32).digest()


def signed_text(raw_path: bytes, query: bytes) -> bytes | None:
    """Return the text that is signed: the raw request target below the base path; None for any other path.

    `query` is the query up to the signature. A base URL that ends with a slash gives a path with two slashes, of which
    neither is signed.
    """
    below = raw_path.removeprefix(_BASE + b"/")
    return None if below == raw_path else below.removeprefix(b"/") + b"?" + query


def signature(secret: str, text: bytes) -> bytes:
    """Return the HMAC-SHA1 in Base64, not yet encoded for a URL. UForge clients use SHA-1, which is safe in an HMAC."""
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha1"))


def new_api_key(store: Store, sealer: Sealer, owner: str, name: str, description: str) -> tuple[ApiKey, str]:
    """Create an API key. Returns it and its secret key, which cannot be read later. Raises `InvalidRequest`."""
    check_name(name, "name")
    check_text(description, "description")
    # Hexadecimal digits need no encoding in a URL.
    secret = secrets.token_hex(_SECRET_BYTES)
    key = store.api_keys.add(
        owner=owner,
        name=name,
        description=description,
        public_key=secrets.token_hex(_PUBLIC_BYTES),
        sealed_secret=sealer.seal({API_SECRET: secret}),
    )
    return key, secret


def _basic(authorization: str | None) -> tuple[str, str]:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        raise NotAuthenticated("sign in with HTTP Basic, or sign the request with an API key")
    try:
        login, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:  # neither base64 nor ASCII, or not UTF-8
        raise NotAuthenticated("the Authorization header is malformed") from None
    if not colon or "\0" in login:
        raise NotAuthenticated("the Authorization header is malformed")
    return login, password
