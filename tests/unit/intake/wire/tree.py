"""Documents written from a tree of elements or of dicts: what the texts that are written directly are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lxml import etree

from publisher.intake.wire.formats import Format
from publisher.intake.wire.schema import NAMESPACE, REQUEST_ONLY, TYPES, XSI, root_field
from publisher.platforms.platform import TYPE_KEY, Document, Field, Kind, ObjectType
from publisher.platforms.values import to_json, to_text

JSON_ONLY = frozenset(each.name for made in TYPES.values() for each in made.fields if each.json_only)
"""The names of the elements of our own that XML answers of the API leave out."""
_XSI_TYPE = f"{{{XSI}}}type"


def tree_written(form: Format, root: str, document: Document, *, request: bool = False) -> bytes:
    """Write a document, as `write_document` does. Raises ValueError if it does not fit the schema."""
    if form is Format.JSON:
        members = _members(root_field(root), document, request=request)
        return json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    element = etree.Element(f"{{{NAMESPACE}}}{root}", nsmap={"ns0": NAMESPACE, "xsi": XSI})
    _fill(element, root_field(root), document, request=request)
    etree.cleanup_namespaces(element)  # keep `xsi` only where an element has a type
    return etree.tostring(element, xml_declaration=True, encoding="UTF-8")


def _members(field: Field, document: Document, *, request: bool) -> dict[str, object]:
    object_type = _type_of(field, document, request=request)
    members: dict[str, object] = {}
    if document.get(TYPE_KEY) is not None:
        members[TYPE_KEY] = object_type.name
    for inner, value in _ordered(object_type, document, request=request):
        members[inner.name] = _value(inner, value, request=request)
    return members


def _value(field: Field, value: object, *, request: bool) -> object:
    if field.item is not None:
        item = field.item
        return {item.name: [_value(item, each, request=request) for each in _as_items(field, value)]}
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        return _members(field, _as_document(field, value), request=request)
    return to_json(field, value)


def _fill(element: etree._Element, field: Field, document: Document, *, request: bool) -> None:
    object_type = _type_of(field, document, request=request)
    if document.get(TYPE_KEY) is not None:
        element.set(_XSI_TYPE, f"ns0:{object_type.name}")
    for inner, value in _ordered(object_type, document, request=request, xml=True):
        _append(element, inner, value, request=request)


def _append(parent: etree._Element, field: Field, value: object, *, request: bool) -> None:
    element = etree.SubElement(parent, field.name)
    if field.item is not None:
        for item in _as_items(field, value):
            _append(element, field.item, item, request=request)
    elif field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        _fill(element, field, _as_document(field, value), request=request)
    else:
        element.text = to_text(field, value)


def _type_of(field: Field, document: Document, *, request: bool) -> ObjectType:
    if field.kind is not Kind.POLYMORPHIC:
        return TYPES[field.type]
    name = document.get(TYPE_KEY)
    if name is None and request:
        return TYPES[field.type]
    object_type = TYPES.get(str(name))
    if object_type is None or object_type.abstract != field.type or not object_type.platform:
        raise ValueError(f"{name!r} is not a concrete type of {field.type}")
    return object_type


def _ordered(
    object_type: ObjectType, document: Document, *, request: bool, xml: bool = False
) -> Iterator[tuple[Field, object]]:
    unknown = set(document) - set(object_type.by_name) - {TYPE_KEY}
    if unknown:
        raise ValueError(f"{object_type.name} has no element {', '.join(sorted(unknown))}")
    for field in object_type.fields:
        value = document.get(field.name)
        if value is None and field.required:
            if field.kind is not Kind.LIST:
                raise ValueError(f"{object_type.name} needs {field.name}")
            value = []
        hidden = field.name in REQUEST_ONLY or field.secret or (xml and field.json_only)
        if value in (None, "") or (hidden and not request):
            continue
        yield field, value


def _as_document(field: Field, value: object) -> Document:
    if not isinstance(value, dict):
        raise ValueError(f"{field.name} holds an object, not {type(value).__name__}")
    return value


def _as_items(field: Field, value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field.name} holds a list, not {type(value).__name__}")
    return list(value)
