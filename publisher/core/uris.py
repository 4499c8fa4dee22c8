"""Ids, and the URIs of the publishing API: relative to its base path, without a leading slash, as documents have them.

Each kind of object has its own URIs where it is defined, such as `ticket_uri` in `publisher.core.ticket`.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from urllib.parse import quote, unquote

from publisher.core.errors import InvalidRequest

ID_PATTERN = "[1-9][0-9]{0,18}"
ID_MAX = (1 << 63) - 1
"""The largest id that the ticket store can hold."""
_ID = re.compile(ID_PATTERN)
_UUID_BYTES, _UUID_DIGITS = 16, 32
_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""Maps a random hex digit to one that begins the fourth part of a UUID (RFC 9562, section 4.1)."""


def parse_id(text: str) -> int | None:
    """Return the id that a text is, written without leading zeros; None if no object can have such an id."""
    number = int(text) if _ID.fullmatch(text) else 0
    return number if 0 < number <= ID_MAX else None


def unique_ids(count: int) -> list[str]:
    """Return so many new UUIDs of version 4. `uuid.uuid4` takes four times as long.

    All their randomness is read at once: a read lets the other threads go first.
    """
    random = os.urandom(_UUID_BYTES * count).hex()
    return [_uuid(random[at : at + _UUID_DIGITS]) for at in range(0, len(random), _UUID_DIGITS)]


def _uuid(digits: str) -> str:
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@lru_cache(1024)
def user_uri(login: str) -> str:
    return f"users/{quote(login, safe='')}"


def uri_pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of URIs of a user's objects with this path, in which `ID` stands for an id."""
    return re.compile(f"(?:/?(?:api/)?)users/([^/]+)/{path.replace('ID', f'({ID_PATTERN})')}/?")


def parse_uri(uri: str, pattern: re.Pattern[str], example: str, field: str) -> tuple[str, list[int]]:
    """Return the login and the ids of a URI. Raises `InvalidRequest`."""
    match = pattern.fullmatch(uri)
    ids = [parse_id(each) for each in match.groups()[1:]] if match else []
    found = [id for id in ids if id is not None]
    if match is None or len(found) < len(ids):
        raise InvalidRequest(f"'{uri}' is not of the form {example}", field=field)
    return unquote(match[1]), found
