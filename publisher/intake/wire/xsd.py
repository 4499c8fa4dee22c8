"""Write the schema table as an XML Schema 1.0 document, for clients that generate classes from it or validate answers.

It describes the answers, and the requests of clients that follow it. The order of the elements is binding, as it is for
existing clients. Elements that no XML answer has are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lxml import etree

from publisher.intake.wire.schema import JSON_ONLY_TYPES, NAMESPACE, REQUEST_ONLY, ROOTS, TYPES
from publisher.platforms.platform import Field, Kind, ObjectType, Platform, known_platforms

_XS = "http://www.w3.org/2001/XMLSchema"
_TNS = "tns"

_BUILT_IN = {
    Kind.STRING: "xs:string",
    # Not xs:anyURI: what callers and clouds send is passed on unchanged, and may not be a valid URI.
    Kind.URI: "xs:string",
    Kind.BOOLEAN: "xs:boolean",
    Kind.INTEGER: "xs:int",
    Kind.LONG: "xs:long",
    # Neither this nor the boolean is restricted to the forms that answers have: with a pattern, class generators would
    # take them for strings.
    Kind.DATE_TIME: "xs:dateTime",
}
_TYPE = ("targetPlatform", "type")
"""An enumeration, in the order of the platforms. (`format/name` is an open list, so it is any string.)"""


@cache
def document(extended: bool = False) -> bytes:
    """Return the schema of the API; with `extended`, also with the platforms of other packages.

    It is always the same.
    """
    platforms = [each for each in known_platforms() if extended or not each.extension]
    names = {each.name for each in platforms}
    schema = etree.Element(
        f"{{{_XS}}}schema",
        {"targetNamespace": NAMESPACE, "elementFormDefault": "unqualified", "attributeFormDefault": "unqualified"},
        nsmap={"xs": _XS, _TNS: NAMESPACE},
    )
    for root in sorted(ROOTS):
        _add(schema, "element", name=root, type=f"{_TNS}:{root}")
    for object_type in TYPES.values():
        if object_type.name in JSON_ONLY_TYPES:
            continue
        if not object_type.platform or object_type.platform in names:
            _add_type(schema, object_type, platforms)
    return etree.tostring(schema, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _add(parent: etree._Element, tag: str, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{_XS}}}{tag}", attributes)


def _add_type(schema: etree._Element, object_type: ObjectType, platforms: Sequence[Platform]) -> None:
    made = _add(schema, "complexType", name=object_type.name)
    fields = _answered(object_type)
    if object_type.platform:
        base = TYPES[object_type.abstract]
        inherited = _answered(base)
        if fields[: len(inherited)] != inherited:
            raise ValueError(f"{object_type.name} does not begin with the elements of {base.name}")
        fields = fields[len(inherited) :]
        made = _add(_add(made, "complexContent"), "extension", base=f"{_TNS}:{base.name}")
    elif object_type.abstract:
        made.set("abstract", "true")
    sequence = _add(made, "sequence")
    for field in fields:
        allowed = [each.name for each in platforms] if (object_type.name, field.name) == _TYPE else []
        _add_element(sequence, field, allowed=allowed)


def _answered(object_type: ObjectType) -> tuple[Field, ...]:
    return tuple(field for field in object_type.fields if field.name not in REQUEST_ONLY and not field.json_only)


def _add_element(
    sequence: etree._Element, field: Field, *, repeated: bool = False, allowed: Sequence[str] = ()
) -> None:
    element = _add(sequence, "element", name=field.name)
    if repeated:
        element.set("minOccurs", "0")
        element.set("maxOccurs", "unbounded")
    elif not field.required:
        element.set("minOccurs", "0")
    if field.item is not None:
        _add_element(_add(_add(element, "complexType"), "sequence"), field.item, repeated=True)
    elif field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        element.set("type", f"{_TNS}:{field.type}")
    elif allowed:
        restriction = _restrict(element, field)
        for value in allowed:
            _add(restriction, "enumeration", value=value)
    elif field.minimum is not None or field.maximum is not None:
        restriction = _restrict(element, field)
        least, greatest = field.bounds
        _add(restriction, "minInclusive", value=str(least))
        _add(restriction, "maxInclusive", value=str(greatest))
    else:
        element.set("type", _BUILT_IN[field.kind])


def _restrict(element: etree._Element, field: Field) -> etree._Element:
    return _add(_add(element, "simpleType"), "restriction", base=_BUILT_IN[field.kind])
