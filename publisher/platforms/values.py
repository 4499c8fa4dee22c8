"""Leaf values: what an element of each kind may contain on the wire, and its value in memory."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import Field, Kind

_TEXT_KINDS = frozenset({Kind.STRING, Kind.URI})
_NUMBER_KINDS = frozenset({Kind.INTEGER, Kind.LONG})
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

# XML cannot carry these at all. It can carry DEL and the C1 block, but they belong in no name or password, and a
# terminal or a log would interpret them.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")

_NAMES = frozenset({"name", "displayName"})
"""Names of what a request creates: blanks are an error here. In other elements, blanks count as empty."""

# More digits than any 64-bit number has. Longer numbers are not converted: that takes quadratic time.
_INTEGER = re.compile(r"[+-]?[0-9]{1,32}")

# The offset is required: a time without one is ambiguous.
_DATE_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?(Z|[+-][0-9]{2}:?[0-9]{2})")


def from_text(field: Field, text: str, path: str) -> object | None:
    """Read the text of an XML element; None if it is empty. Raises InvalidRequest, which names `path`."""
    if field.kind is Kind.STRING:
        # Blanks with line breaks are only the layout of the document.
        if "\n" not in text:
            _check_seen(text, path)
        return _string(field, text, path)
    text = text.strip()
    if not text:
        return None
    if field.kind is Kind.URI:
        return _string(field, text, path)
    if field.kind is Kind.BOOLEAN:
        if text not in _BOOLEANS:
            raise _wrong(field, text, path, "true or false")
        return _BOOLEANS[text]
    if field.kind in _NUMBER_KINDS:
        if not _INTEGER.fullmatch(text):
            raise _wrong(field, text, path, "an integer")
        return _bounded(field, int(text), path)
    return _date_time(field, text, path)


def from_json(field: Field, value: object, path: str) -> object | None:
    """Read the value of a JSON member; None if it is null or an empty string.

    Raises InvalidRequest, which names `path`.

    JSON has numbers and booleans of its own, so a string in their place is an error, and the reverse.
    """
    if value is None:
        return None
    if field.kind in _TEXT_KINDS or field.kind is Kind.DATE_TIME:
        if not isinstance(value, str):
            raise InvalidRequest(f"a string is expected, not {json_kind(value)}", field=path)
        if field.kind is Kind.STRING:
            _check_seen(value, path)
            return _string(field, value, path)
        return from_text(field, value, path)
    if field.kind is Kind.BOOLEAN:
        if not isinstance(value, bool):
            raise InvalidRequest(f"true or false is expected, not {json_kind(value)}", field=path)
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"an integer is expected, not {json_kind(value)}", field=path)
    return _bounded(field, value, path)


def to_json(field: Field, value: object) -> str | int | bool:
    """Convert a value to JSON. Raises ValueError if the value is not of the field's kind."""
    if field.kind in _TEXT_KINDS and isinstance(value, str):
        # Text from a cloud or a library may contain anything; the answer must be readable nevertheless.
        return _FORBIDDEN.sub("\ufffd", value)
    if field.kind is Kind.BOOLEAN and isinstance(value, bool):
        return value
    if field.kind in _NUMBER_KINDS and isinstance(value, int) and not isinstance(value, bool):
        least, greatest = field.bounds
        if least <= value <= greatest:
            return value
    if field.kind is Kind.DATE_TIME and isinstance(value, datetime) and value.tzinfo is not None:
        return _iso(value)
    shown = "" if field.secret else f" {value!r}"
    raise ValueError(f"{field.name} holds {field.kind.value}, not {type(value).__name__}{shown}")


def to_text(field: Field, value: object) -> str:
    """Convert a value to the text of an XML element. Raises ValueError if the value is not of the field's kind."""
    plain = to_json(field, value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return str(plain)


def json_kind(value: object) -> str:
    """Name the kind of a JSON value for the caller that sent it, without showing the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _check_seen(text: str, path: str) -> None:
    if path in _NAMES and text.isspace():
        raise InvalidRequest("consists of blanks only; give a name that can be seen, or leave it out", field=path)


def _string(field: Field, text: str, path: str) -> str | None:
    if not text or text.isspace():
        return None
    if len(text) > field.limit:
        raise InvalidRequest(f"{len(text)} characters are too many; at most {field.limit} are accepted", field=path)
    usual = text.isascii() and text.isprintable()  # takes a fraction of the search
    if not usual and (forbidden := _FORBIDDEN.search(text)):
        raise InvalidRequest(
            f"the character U+{ord(forbidden[0]):04X} at position {forbidden.start()} is not accepted", field=path
        )
    return text


def _bounded(field: Field, number: int, path: str) -> int:
    least, greatest = field.bounds
    if not least <= number <= greatest:
        raise _wrong(field, str(number), path, f"a number from {least} to {greatest}")
    return number


def _date_time(field: Field, text: str, path: str) -> datetime:
    match = _DATE_TIME.fullmatch(text)
    if match:
        moment, fraction, offset = match.groups()
        try:
            return datetime.fromisoformat(f"{moment}{(fraction or '')[:7]}{offset}")
        except ValueError:
            pass  # the form is right, but there is no such day, hour or offset
    raise _wrong(field, text, path, "a dateTime with an offset, such as 2026-01-02T03:04:05.678Z")


def _iso(moment: datetime) -> str:
    offset = moment.utcoffset()
    if not offset or offset % timedelta(minutes=1):
        # ISO 8601 has no form for an offset with seconds.
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    return moment.isoformat(timespec="milliseconds")


def _wrong(field: Field, text: str, path: str, expected: str) -> InvalidRequest:
    if field.secret:
        return InvalidRequest(f"{expected} is expected", field=path)
    shown = text if len(text) <= 40 else text[:40] + "…"
    return InvalidRequest(f"{shown!r} is not {expected}", field=path)
