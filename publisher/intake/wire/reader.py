"""Turn a parsed body into a Document: the walk along the schema that both codecs share.

A codec provides the body as nodes; this module knows the schema, and nothing of XML or JSON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from publisher.intake.wire.platform_resolution import (
    Told,
    account_platform,
    concrete_type,
    declared_platform,
    image_platform,
    join,
)
from publisher.intake.wire.schema import TYPES, root_field
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    PUBLISH_IMAGE,
    TYPE_KEY,
    Document,
    Field,
    Kind,
    ObjectType,
    Platform,
)


class Node(ABC):
    """One element of a body, at a path from the root ("credAccount.port"; "" is the root itself).

    Every method raises InvalidRequest, which names the path, if the node has another form than requested.
    """

    type_key: ClassVar[str]
    """The format's own name for the attribute that names a concrete type."""

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def child(self, name: str) -> Node | None:
        """Return the element of that name; None if there is none.

        Raises if there are several, or if there can be none.
        """

    @abstractmethod
    def items(self, name: str) -> list[Node]:
        """Return the elements of that name inside this one, a list's wrapper, in order."""

    @abstractmethod
    def leaf(self, field: Field) -> object | None:
        """Return the value of this element, which `field` describes; None if it is empty."""

    @abstractmethod
    def declared_type(self) -> str:
        """Return the name of the concrete type that the element declares; "" if it declares none."""


def read(node: Node, root: str, platform: Platform | None = None) -> Document:
    """Read the document whose root is `node`. `platform` applies if the document names none."""
    return _read_object(node, root_field(root), platform)


def _read_object(node: Node, field: Field, platform: Platform | None) -> Document:
    if field.kind is not Kind.POLYMORPHIC:
        return _read_fields(node, TYPES[field.type], platform)
    platform = _platform_of(node, field.type, platform)
    document = _read_fields(node, TYPES[concrete_type(field.type, platform)], platform)
    return {TYPE_KEY: concrete_type(field.type, platform), **document} if platform else document


def _read_fields(node: Node, object_type: ObjectType, platform: Platform | None) -> Document:
    document: Document = {}
    for field in object_type.fields:
        child = node.child(field.name)
        value = None if child is None else _read_value(child, field, platform)
        if value is not None:
            document[field.name] = value
    return document


def _read_value(node: Node, field: Field, platform: Platform | None) -> object | None:
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        return _read_object(node, field, platform)
    if field.item is None:
        return node.leaf(field)
    values = [_read_value(item, field.item, platform) for item in node.items(field.item.name)]
    return [value for value in values if value is not None]


def _platform_of(node: Node, abstract: str, fallback: Platform | None) -> Platform | None:
    if abstract == CRED_ACCOUNT:
        return _platform_of_account(node) or fallback
    declared = declared_platform(PUBLISH_IMAGE, node.declared_type(), join(node.path, node.type_key))
    account = node.child(CRED_ACCOUNT)
    told = None if account is None else _platform_of_account(account)
    return image_platform(declared, told, join(node.path, CRED_ACCOUNT), fallback)


def _platform_of_account(node: Node) -> Platform | None:
    target = node.child("targetPlatform")
    fields = TYPES["targetPlatform"].by_name

    def text(name: str) -> str:
        child = None if target is None else target.child(name)
        return "" if child is None else str(child.leaf(fields[name]) or "")

    told = Told(
        type_name=node.declared_type(),
        platform_name=text("name"),
        platform_type=text("type"),
        reference=any(node.child(name) is not None for name in ("dbId", "uri", "name")),
    )
    return account_platform(told, node.path, node.type_key)
