"""What the schema is written in: fields, and the object types that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

Document = dict[str, object]
"""An object in memory: its values under their element names, None or absent when unset.

Numbers are int, booleans bool, dateTimes aware datetime, objects a Document, lists a list under the plural wrapper's
name. A polymorphic object names its concrete type under TYPE_KEY.
"""

TYPE_KEY = "@type"

PUBLISH_IMAGE = "publishImage"
CRED_ACCOUNT = "credAccount"
"""The abstract types to which each platform adds elements."""

STRING_LIMIT = 4096
"""Characters of a string, unless its field says otherwise."""

CERTIFICATE_LIMIT = 64 * 1024
"""Characters of a certificate's (base64) content."""


class Kind(Enum):
    """What an element holds."""

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

    type: of OBJECT, the object type's name; of POLYMORPHIC, the abstract type's.
    item: of LIST, the singular element inside the wrapper.
    required: an answer without it is a mistake of ours; a LIST that is required is written even when it is empty.
    secret: never in an answer, nor in the words of an error.
    limit: of STRING and URI, the most characters accepted.
    minimum, maximum: of INTEGER and LONG, where they are narrower than 32 and 64 bits.
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
        """The least and the greatest value of a number."""
        bits = 31 if self.kind is Kind.INTEGER else 63
        least = -(1 << bits) if self.minimum is None else self.minimum
        greatest = (1 << bits) - 1 if self.maximum is None else self.maximum
        return least, greatest


@dataclass(frozen=True)
class ObjectType:
    """A type of object: its fields, inherited ones first, in the order that answers have them.

    abstract: the abstract type that this one is a concrete type of ("publishImage", "credAccount"), or "".
    platform: the cloud platform that it belongs to, or "".
    """

    name: str
    fields: tuple[Field, ...]
    abstract: str = ""
    platform: str = ""

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields under their element names."""
        return {field.name: field for field in self.fields}


def strings(*names: str) -> tuple[Field, ...]:
    """Fields that hold text."""
    return tuple(Field(name) for name in names)


def secrets(*names: str) -> tuple[Field, ...]:
    """Fields that hold text that no answer and no message may show."""
    return tuple(Field(name, secret=True) for name in names)


def uris(*names: str) -> tuple[Field, ...]:
    """Fields that hold a URI: text that white space around does not belong to."""
    return tuple(Field(name, Kind.URI) for name in names)


def booleans(*names: str) -> tuple[Field, ...]:
    """Fields that are true or false."""
    return tuple(Field(name, Kind.BOOLEAN) for name in names)


def integers(*names: str, **bounds: Any) -> tuple[Field, ...]:
    """Fields that hold a number of 32 bits, or within `minimum` and `maximum`."""
    return tuple(Field(name, Kind.INTEGER, **bounds) for name in names)


def longs(*names: str) -> tuple[Field, ...]:
    """Fields that hold a number of 64 bits."""
    return tuple(Field(name, Kind.LONG) for name in names)


def date_times(*names: str) -> tuple[Field, ...]:
    """Fields that hold a moment."""
    return tuple(Field(name, Kind.DATE_TIME) for name in names)


def an_object(name: str, type_name: str = "") -> tuple[Field, ...]:
    """A field that holds an object, of the type of the same name unless told."""
    return (Field(name, Kind.OBJECT, type_name or name),)


def polymorphic(name: str) -> tuple[Field, ...]:
    """A field that holds an object of one of the abstract type's concrete types."""
    return (Field(name, Kind.POLYMORPHIC, name),)


def a_list(wrapper: str, item: tuple[Field, ...], *, required: bool = False, secret: bool = False) -> tuple[Field, ...]:
    """A list of `item`, inside an element named `wrapper`."""
    return (Field(wrapper, Kind.LIST, item=item[0], required=required, secret=secret),)
