"""UForge documents in JSON: they mirror the XML, without the name of the root.

Lists are `{"plural": {"singular": [...]}}` as in the XML; a polymorphic object names its type under "@type".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import ClassVar, NoReturn

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.schema import root_field
from publisher.intake.wire.walk import (
    AccountResolver,
    Node,
    as_document,
    as_items,
    join,
    ordered,
    read,
    type_of,
)
from publisher.platforms.platform import TYPE_KEY, Document, Field, Kind
from publisher.platforms.values import from_json, json_kind, to_json
from publisher.web import body_limits

CONTENT_TYPE = "application/json"

# A whole string, or a character that opens, closes or separates values. The string always matches, even if it is never
# closed (possessive, with an optional end): a new try at each quote inside it would take quadratic time.
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+["\\]?|[][{},]', re.DOTALL)
_OPENING = frozenset("{[")
_CLOSING = frozenset("]}")

# Enough characters to know that a number exceeds 64 bits. Converting more takes quadratic time.
_INTEGER_CHARACTERS = 21


def parse(
    root: str, body: bytes, *, limit: int = body_limits.MAX_BODY_BYTES, resolve: AccountResolver | None = None
) -> Document:
    """Read the document in `body`, which may have `limit` bytes, as if its root element were `root`.

    `resolve` finds the platform of an account that does not declare one.

    Raises BodyTooLarge, and InvalidRequest, which names the element at fault if there is one.
    """
    body_limits.check_size(body, limit)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the request body is not valid UTF-8 at byte {error.start}") from error
    _check_extent(text)
    repeated: list[str] = []

    def to_object(members: list[tuple[str, object]]) -> _Object:
        return _Object(members, repeated)

    try:
        value = json.loads(text, object_pairs_hook=to_object, parse_int=_parse_int, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from error
    document = read(_Member(value, ""), root, resolve)
    if repeated:  # in a part that is not read, but still an error
        raise InvalidRequest("is given more than once", field=repeated[0])
    return document


def render(root: str, document: Document, *, request: bool = False) -> bytes:
    """Write `document` as an answer, or as a request. Only a request may contain secrets.

    Raises ValueError if the document does not fit the schema.
    """
    members = _members(root_field(root), document, request=request)
    return json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


# Reading ------------------------------------------------------------------------------------------------------------


class _Object(dict[str, object]):
    """A JSON object that remembers a name that occurred twice."""

    def __init__(self, members: list[tuple[str, object]], all_repeated: list[str]) -> None:
        super().__init__(members)
        self.repeated: str | None = None
        if len(self) != len(members):
            counts = Counter(name for name, _ in members)
            self.repeated = next(name for name, count in counts.items() if count > 1)
            all_repeated.append(self.repeated)


def _check_extent(text: str) -> None:
    """Refuse bodies that are nested too deeply for the recursive parser, or would take it too long."""
    depth = elements = strings = 0
    for match in _MARK.finditer(text):
        mark = match[0]
        depth += (mark in _OPENING) - (mark in _CLOSING)
        elements += mark in _OPENING or mark == ","
        strings += mark.startswith('"')
        if depth > body_limits.MAX_DEPTH:
            raise body_limits.too_deep()
        # Each element has at most a name and a value: with more strings, the body is no JSON or has too many elements.
        if elements > body_limits.MAX_ELEMENTS or strings > 2 * body_limits.MAX_ELEMENTS:
            raise body_limits.too_many()


def _parse_int(digits: str) -> int:
    return int(digits[:_INTEGER_CHARACTERS])


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the request body is not JSON: {name} is not a number")


class _Member(Node):
    type_key: ClassVar[str] = TYPE_KEY

    def __init__(self, value: object, path: str) -> None:
        super().__init__(path)
        self._value = value

    def child(self, name: str) -> Node | None:
        value = self._object().get(name)
        return None if value is None else _Member(value, join(self.path, name))

    def items(self, name: str) -> list[Node]:
        values = self._object().get(name)
        if values is None:
            return []
        if not isinstance(values, list):
            raise InvalidRequest(f"an array is expected, not {json_kind(values)}", field=join(self.path, name))
        return [_Member(value, f"{self.path}[{index}]") for index, value in enumerate(values)]

    def leaf(self, field: Field) -> object | None:
        return from_json(field, self._value, self.path)

    def declared_type(self) -> str:
        declared = self._object().get(TYPE_KEY)
        if declared is None:
            return ""
        if not isinstance(declared, str):
            raise InvalidRequest(f"a string is expected, not {json_kind(declared)}", field=join(self.path, TYPE_KEY))
        return declared.strip()

    def _object(self) -> _Object:
        if not isinstance(self._value, _Object):
            raise InvalidRequest(f"an object is expected, not {json_kind(self._value)}", field=self.path or None)
        if self._value.repeated is not None:
            raise InvalidRequest("is given more than once", field=join(self.path, self._value.repeated))
        return self._value


# Writing ------------------------------------------------------------------------------------------------------------


def _members(field: Field, document: Document, *, request: bool) -> dict[str, object]:
    object_type = type_of(field, document, request=request)
    members: dict[str, object] = {}
    if document.get(TYPE_KEY) is not None:
        members[TYPE_KEY] = object_type.name
    for inner, value in ordered(object_type, document, request=request):
        members[inner.name] = _value(inner, value, request=request)
    return members


def _value(field: Field, value: object, *, request: bool) -> object:
    if field.item is not None:
        item = field.item
        return {item.name: [_value(item, each, request=request) for each in as_items(field, value)]}
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        return _members(field, as_document(field, value), request=request)
    return to_json(field, value)
