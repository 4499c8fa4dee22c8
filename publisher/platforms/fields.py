"""The building blocks of the schema: fields, and the object types that consist of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

Document = dict[str, object]
"""An object in memory: its values by element name. An unset value is None or absent.

Numbers are int, booleans bool, dateTimes aware datetime, objects a Document, and lists a list under the plural
wrapper's name. A polymorphic object has the name of its concrete type under TYPE_KEY.
"""

TYPE_KEY = "@type"

PUBLISH_IMAGE = "publishImage"
CRED_ACCOUNT = "credAccount"
"""The abstract types to which each platform adds elements."""

STRING_LIMIT = 4096
"""Maximum length of a string in characters, unless its field has its own limit."""

CERTIFICATE_LIMIT = 64 * 1024
"""Maximum length of a certificate's (base64) content in characters."""


class Kind(Enum):
    """The type of an element's value."""

    STRING = "a string"
    URI = "a URI"
    BOOLEAN = "a boolean"
    INTEGER = "an integer"
    LONG = "a long integer"
    DATE_TIME = "a dateTime"
    OBJECT = "an object"
    POLYMORPHIC = "an object of one of several types"
    LIST = "a list"


@dataclass(frozen=True, slots=True)
class Field:
    """One element of an object type.

    type: for OBJECT, the name of the object type; for POLYMORPHIC, that of the abstract type.
    item: for LIST, the singular element inside the wrapper.
    required: an answer without it is a programming error. A required LIST is written even if it is empty.
    secret: never part of an answer or of an error message.
    limit: for STRING and URI, the maximum length in characters.
    minimum, maximum: for INTEGER and LONG, if narrower than 32 and 64 bits.
    """

    name: str
    kind: Kind = Kind.STRING
    type: str = ""
    item: Field | None = None
    required: bool = False
    secret: bool = False
    limit: int = STRING_LIMIT
    minimum: int | None = None
    maximum: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The minimum and the maximum of a number."""
        bits = 31 if self.kind is Kind.INTEGER else 63
        least = -(1 << bits) if self.minimum is None else self.minimum
        greatest = (1 << bits) - 1 if self.maximum is None else self.maximum
        return least, greatest


@dataclass(frozen=True)
class ObjectType:
    """A type of object. `fields` are in the order of answers, inherited ones first.

    abstract: the abstract type of which this is a concrete type ("publishImage", "credAccount"), or "".
    platform: the cloud platform that it belongs to, or "".
    """

    name: str
    fields: tuple[Field, ...]
    abstract: str = ""
    platform: str = ""

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields by element name."""
        return {field.name: field for field in self.fields}


def strings(*names: str) -> tuple[Field, ...]:
    """Return fields for text."""
    return tuple(Field(name) for name in names)


def secrets(*names: str) -> tuple[Field, ...]:
    """Return fields for secret text, which no answer and no message may show."""
    return tuple(Field(name, secret=True) for name in names)


def uris(*names: str) -> tuple[Field, ...]:
    """Return fields for a URI: text, without the white space around it."""
    return tuple(Field(name, Kind.URI) for name in names)


def booleans(*names: str) -> tuple[Field, ...]:
    """Return fields for true or false."""
    return tuple(Field(name, Kind.BOOLEAN) for name in names)


def integers(*names: str, **bounds: Any) -> tuple[Field, ...]:
    """Return fields for a number of 32 bits, or between `minimum` and `maximum`."""
    return tuple(Field(name, Kind.INTEGER, **bounds) for name in names)


def longs(*names: str) -> tuple[Field, ...]:
    """Return fields for a number of 64 bits."""
    return tuple(Field(name, Kind.LONG) for name in names)


def date_times(*names: str) -> tuple[Field, ...]:
    """Return fields for a moment in time."""
    return tuple(Field(name, Kind.DATE_TIME) for name in names)


def an_object(name: str, type_name: str = "") -> tuple[Field, ...]:
    """Return a field for an object. By default its type has the same name."""
    return (Field(name, Kind.OBJECT, type_name or name),)


def polymorphic(name: str) -> tuple[Field, ...]:
    """Return a field for an object of one of the abstract type's concrete types."""
    return (Field(name, Kind.POLYMORPHIC, name),)


def a_list(wrapper: str, item: tuple[Field, ...], *, required: bool = False, secret: bool = False) -> tuple[Field, ...]:
    """Return a field for a list of `item`, inside an element named `wrapper`."""
    return (Field(wrapper, Kind.LIST, item=item[0], required=required, secret=secret),)
