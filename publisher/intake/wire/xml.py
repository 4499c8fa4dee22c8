"""UForge documents in XML.

A body is read strictly and safely: no DTD, no entities, nothing from the network. One error is accepted, because the
API's own manual contains it: an `xsi` prefix that is never declared.
"""

from __future__ import annotations

import codecs
import re
from typing import ClassVar

from lxml import etree

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.schema import NAMESPACE, ROOTS, root_field
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
from publisher.platforms.values import from_text, to_text
from publisher.web import body_limits

XSI = "http://www.w3.org/2001/XMLSchema-instance"
CONTENT_TYPE = "application/xml"
"""Exactly this: existing clients compare it, so no charset may follow."""

_PREFIX = "ns0"
_XSI_TYPE = f"{{{XSI}}}type"
_UNDECLARED_XSI = "Namespace prefix xsi "
_DECLARATION = re.compile(r"\A\ufeff?<\?xml\s.*?\?>", re.DOTALL)
_ROOT_START = re.compile(r"\A\ufeff?(?:\s++|<!--.*?-->|<\?.*?\?>)*+<[^\s/>!?]+", re.DOTALL)
_NO_DOCTYPE = "a DOCTYPE is not accepted"


def parse(
    body: bytes, *, limit: int = body_limits.MAX_BODY_BYTES, resolve: AccountResolver | None = None
) -> tuple[str, Document]:
    """Read `body`, which may have `limit` bytes. Returns the root element's name and the document.

    `resolve` finds the platform of an account that does not declare one.

    Raises BodyTooLarge, and InvalidRequest, which names the element at fault if there is one.
    """
    body_limits.check_size(body, limit)
    element = _parse_strictly(body)
    _check_extent(element)
    name = etree.QName(element)
    if name.namespace != NAMESPACE:
        raise InvalidRequest(f"the root element must be in the namespace {NAMESPACE}", field=name.localname)
    if name.localname not in ROOTS:
        raise InvalidRequest("is not the root of a document of this API", field=name.localname)
    return name.localname, read(_Element(element, ""), name.localname, resolve)


def render(root: str, document: Document, *, request: bool = False) -> bytes:
    """Write `document` as an answer, or as a request. Only a request may contain secrets.

    The root is qualified and its children are not; there is no default namespace. Raises ValueError if the document
    does not fit the schema.
    """
    element = etree.Element(f"{{{NAMESPACE}}}{root}", nsmap={_PREFIX: NAMESPACE, "xsi": XSI})
    _fill(element, root_field(root), document, request=request)
    etree.cleanup_namespaces(element)  # keep `xsi` only where an element has a type
    return etree.tostring(element, xml_declaration=True, encoding="UTF-8")


# Reading ------------------------------------------------------------------------------------------------------------


def _parser(*, recover: bool = False) -> etree.XMLParser:
    return etree.XMLParser(
        recover=recover,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def _parse_strictly(body: bytes) -> etree._Element:
    parser = _parser()
    try:
        element = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        # Use the parser's own log: the error's log also has the errors of other documents.
        fault = _other_fault(parser.error_log)
        if fault or not len(parser.error_log):
            raise _malformed(f"{fault.message} in line {fault.line}" if fault else error.msg) from error
        element = _parse_with_undeclared_xsi(body)
    if element.getroottree().docinfo.internalDTD is not None:
        raise InvalidRequest(_NO_DOCTYPE)
    return element


def _parse_with_undeclared_xsi(body: bytes) -> etree._Element:
    """Parse the body with `xsi` declared on its root element. Raises InvalidRequest if it has other errors, too.

    The declaration is inserted into the text, which is then parsed as strictly as any other: the parser reports at most
    a hundred errors, and after the first one it ignores what follows the root.
    """
    try:
        text = body.decode(_encoding(body))
    except (LookupError, UnicodeDecodeError) as error:
        raise _malformed("its encoding cannot be read") from error
    text = _DECLARATION.sub("", text, count=1)  # it names an encoding that the text no longer has
    text, declared = _ROOT_START.subn(rf'\g<0> xmlns:xsi="{XSI}"', text, count=1)
    if not declared:
        # Only a DOCTYPE can be before the root: comments and instructions are skipped.
        raise InvalidRequest(_NO_DOCTYPE)
    try:
        return etree.fromstring(text.encode(), _parser())
    except etree.XMLSyntaxError as error:
        raise _malformed(error.msg.rpartition(", line")[0]) from error


def _encoding(body: bytes) -> str:
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"  # the parser does not report it for a body without a declaration
    # In spite of an undeclared prefix, the recovering parser reads the document and its declaration.
    return etree.fromstring(body, _parser(recover=True)).getroottree().docinfo.encoding or "UTF-8"


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the request body is not well-formed XML: {' '.join(reason.split())}")


def _other_fault(faults: etree._ListErrorLog) -> etree._LogEntry | None:
    """Return the first error that is not an undeclared `xsi` prefix."""
    for fault in faults:
        if fault.type_name != "NS_ERR_UNDEFINED_NAMESPACE" or not fault.message.startswith(_UNDECLARED_XSI):
            return fault
    return None


def _check_extent(root: etree._Element) -> None:
    depth = elements = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        if event == "end":
            depth -= 1
            continue
        depth += 1
        elements += 1
        if depth > body_limits.MAX_DEPTH:
            raise body_limits.too_deep()
        if elements > body_limits.MAX_ELEMENTS:
            raise body_limits.too_many()


class _Element(Node):
    type_key: ClassVar[str] = "xsi:type"

    def __init__(self, element: etree._Element, path: str) -> None:
        super().__init__(path)
        self._element = element
        self._children: dict[str, list[etree._Element]] | None = None

    def child(self, name: str) -> Node | None:
        found = self._by_name().get(name, [])
        if len(found) > 1:
            raise InvalidRequest("is given more than once", field=join(self.path, name))
        return _Element(found[0], join(self.path, name)) if found else None

    def items(self, name: str) -> list[Node]:
        found = self._by_name().get(name, [])
        return [_Element(element, f"{self.path}[{index}]") for index, element in enumerate(found)]

    def leaf(self, field: Field) -> object | None:
        if len(self._element):
            raise InvalidRequest("text is expected, not elements", field=self.path)
        return from_text(field, self._element.text or "", self.path)

    def declared_type(self) -> str:
        declared = (self._element.get(_XSI_TYPE) or "").strip()
        if not declared:
            return ""
        prefix, colon, local_name = declared.rpartition(":")
        if self._element.nsmap.get(prefix if colon else None) != NAMESPACE:
            raise InvalidRequest(
                f"the prefix of {declared[:80]!r} is not bound to the namespace {NAMESPACE}",
                field=join(self.path, self.type_key),
            )
        return local_name

    def _by_name(self) -> dict[str, list[etree._Element]]:
        if self._children is None:
            if any(text.strip() for text in (self._element.text, *(each.tail for each in self._element)) if text):
                raise InvalidRequest("elements are expected, not text", field=self.path or None)
            self._children = {}
            for element in self._element:
                name = etree.QName(element)
                # Children have no namespace. Some callers qualify them nevertheless, and can only mean these.
                if name.namespace in (None, NAMESPACE):
                    self._children.setdefault(name.localname, []).append(element)
        return self._children


# Writing ------------------------------------------------------------------------------------------------------------


def _fill(element: etree._Element, field: Field, document: Document, *, request: bool) -> None:
    object_type = type_of(field, document, request=request)
    if document.get(TYPE_KEY) is not None:
        element.set(_XSI_TYPE, f"{_PREFIX}:{object_type.name}")
    for inner, value in ordered(object_type, document, request=request, xml=True):
        _append(element, inner, value, request=request)


def _append(parent: etree._Element, field: Field, value: object, *, request: bool) -> None:
    element = etree.SubElement(parent, field.name)
    if field.item is not None:
        for item in as_items(field, value):
            _append(element, field.item, item, request=request)
    elif field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        _fill(element, field, as_document(field, value), request=request)
    else:
        element.text = to_text(field, value)
