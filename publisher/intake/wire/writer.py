"""Check a Document as both codecs write it.

An error here is a mistake of this service and not of a caller, so it is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator

from publisher.intake.wire.schema import JSON_ONLY, REQUEST_ONLY, TYPES
from publisher.platforms.platform import TYPE_KEY, Document, Field, Kind, ObjectType


def type_of(field: Field, document: Document, *, request: bool) -> ObjectType:
    """Return the type to write `document` as. Raises ValueError if it does not name a type that `field` may hold.

    Only a request may leave the type out: existing clients need it in an answer.
    """
    if field.kind is not Kind.POLYMORPHIC:
        return TYPES[field.type]
    name = document.get(TYPE_KEY)
    if name is None and request:
        return TYPES[field.type]
    object_type = TYPES.get(str(name))
    if object_type is None or object_type.abstract != field.type or not object_type.platform:
        raise ValueError(f"{name!r} is not a concrete type of {field.type}")
    return object_type


def ordered(
    object_type: ObjectType, document: Document, *, request: bool, xml: bool = False
) -> Iterator[tuple[Field, object]]:
    """Yield the values to write, in the order of the schema, without those that are None or empty.

    An answer never contains a secret or an element of REQUEST_ONLY, and in XML none of JSON_ONLY: they are left out
    even if the document has them. Raises ValueError for a value that the type has no element for, and for a required
    element that is missing.
    """
    unknown = set(document) - set(object_type.by_name) - {TYPE_KEY}
    if unknown:
        raise ValueError(f"{object_type.name} has no element {', '.join(sorted(unknown))}")
    hidden = frozenset() if request else REQUEST_ONLY | JSON_ONLY if xml else REQUEST_ONLY
    for field in object_type.fields:
        value = document.get(field.name)
        if value is None and field.required:
            if field.kind is not Kind.LIST:
                raise ValueError(f"{object_type.name} needs {field.name}")
            value = []
        if value in (None, "") or field.name in hidden or (field.secret and not request):
            continue
        yield field, value


def as_document(field: Field, value: object) -> Document:
    """Return `value`, which must be a Document. Raises ValueError if it is not."""
    if not isinstance(value, dict):
        raise ValueError(f"{field.name} holds an object, not {type(value).__name__}")
    return value


def as_items(field: Field, value: object) -> list[object]:
    """Return `value`, which must be a list. Raises ValueError if it is not."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field.name} holds a list, not {type(value).__name__}")
    return list(value)
