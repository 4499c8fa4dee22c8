"""Read a parsed body into a Document, along the schema.

The body comes as nodes; this module knows the schema, and nothing of XML or JSON.

The elements of a published image and of an account depend on their platform, so the platform is found first. A caller
declares it in one of three ways: it names the concrete type; it names none, and the account's target platform decides;
or it leaves the type empty, as the API's manual does, which is the same as naming none. A published image and its
account have the same platform, so either decides for the other. If neither does, a stored account may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import ClassVar

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.schema import TYPES, concrete_type, document_platform, root_field
from publisher.intake.wire.unknown_elements import UnknownElements
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    PUBLISH_IMAGE,
    TYPE_KEY,
    Document,
    Field,
    Kind,
    ObjectType,
    Platform,
    find_platform,
    known_platforms,
)

_OBJECTS = (Kind.OBJECT, Kind.POLYMORPHIC)
_Resolver = Callable[[Document], Platform | None]
"""`AccountResolver` of `reading.py`."""


class Node(ABC):
    """One element of a body, at a path from the root ("credAccount.port"; "" is the root itself).

    Every method raises InvalidRequest, which names the path, if the node has another form than requested.
    """

    type_key: ClassVar[str]
    """The format's own name for the attribute that names a concrete type."""

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> Collection[str]:
        """Return the names of the elements in this one. Raises if there can be none."""

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


def read(node: Node, root: str, unknown: UnknownElements, resolve: _Resolver | None = None) -> Document:
    """Read the document whose root is `node`. `unknown` collects the elements that the schema does not have.

    `resolve` is asked if neither the document nor its account declares a platform.
    """
    field = root_field(root)
    platform = _platform_of(node, field.type, resolve) if field.kind is Kind.POLYMORPHIC else None
    unknown.begin(root, platform)
    return _read_object(node, field, platform, unknown)


def join(path: str, name: str) -> str:
    """Return the path of the element `name` inside the one at `path`."""
    return f"{path}.{name}" if path else name


# Reading -------------------------------------------------------------------------------------------------------------


def _read_object(node: Node, field: Field, platform: Platform | None, unknown: UnknownElements) -> Document:
    """Read an object. `platform` is the one of the object around it, if that has one."""
    if field.kind is not Kind.POLYMORPHIC:
        return _read_fields(node, TYPES[field.type], platform, unknown)
    platform = platform or _platform_of(node, field.type)
    document = _read_fields(node, TYPES[concrete_type(field.type, platform)], platform, unknown)
    return {TYPE_KEY: concrete_type(field.type, platform), **document} if platform else document


def _read_fields(node: Node, object_type: ObjectType, platform: Platform | None, unknown: UnknownElements) -> Document:
    document: Document = {}
    names = node.names()
    fields = object_type.named(names)
    # An object that no platform is known for may have the elements of any.
    if len(fields) < len(names) and (object_type.platform or not object_type.abstract):
        unknown.note(node.path, names, object_type.name, object_type.by_name)
    for field in fields:
        child = node.child(field.name)
        value = None if child is None else _read_value(child, field, platform, unknown)
        if value is not None:
            document[field.name] = value
    return document


def _read_value(node: Node, field: Field, platform: Platform | None, unknown: UnknownElements) -> object | None:
    if field.kind in _OBJECTS:
        return _read_object(node, field, platform, unknown)
    item = field.item
    if item is None:
        return node.leaf(field)
    values = [_read_value(each, item, platform, unknown) for each in node.items(item.name)]
    unknown.note(node.path, node.names(), field.name, (item.name,))
    return [value for value in values if value is not None]


# Platforms ----------------------------------------------------------------------------------------------------------


def _platform_of(node: Node, abstract: str, resolve: _Resolver | None = None) -> Platform | None:
    """Return the platform of a published image or an account; None if neither declares it and `resolve` finds none.

    Raises InvalidRequest if an image and its account disagree, or for a type or a platform that does not exist.
    """
    account = node if abstract == CRED_ACCOUNT else node.child(CRED_ACCOUNT)
    declared = _declared_platform(PUBLISH_IMAGE, node) if abstract == PUBLISH_IMAGE else None
    of_account = None if account is None else _platform_of_account(account)
    if declared and of_account and declared is not of_account:
        raise InvalidRequest(
            f"an account of {of_account.name} cannot be used with {declared.publish_image_type}",
            field=join(node.path, CRED_ACCOUNT),
        )
    platform = declared or of_account
    if platform is None and account is not None and resolve is not None:
        # What is unknown in it is collected when it is read as an account of that platform.
        return resolve(_read_fields(account, TYPES[CRED_ACCOUNT], None, UnknownElements()))
    return platform


def _platform_of_account(node: Node) -> Platform | None:
    """Return the platform that an account declares.

    The declared type decides first, then `targetPlatform/type`, which is an enumeration. `targetPlatform/name` comes
    last: it is a label that an administrator may choose, so it may be unknown here, or contradict the others.
    """
    declared = _declared_platform(CRED_ACCOUNT, node)
    target = node.child("targetPlatform")
    fields = TYPES["targetPlatform"].by_name

    def text(name: str) -> str:
        child = None if target is None else target.child(name)
        return "" if child is None else str(child.leaf(fields[name]) or "")

    platform_name, platform_type = text("name"), text("type")
    if platform_type:
        by_type = _known(platform_type, join(node.path, "targetPlatform.type"))
        if declared and declared is not by_type:
            raise InvalidRequest(
                f"{platform_type[:80]!r} contradicts the account's type, {declared.cred_account_type}",
                field=join(node.path, "targetPlatform.type"),
            )
        return by_type
    if declared or not platform_name:
        return declared
    if any(node.child(name) is not None for name in ("dbId", "uri", "name")):  # it may refer to a stored account
        return find_platform(platform_name)
    return _known(platform_name, join(node.path, "targetPlatform.name"))


def _declared_platform(abstract: str, node: Node) -> Platform | None:
    """Return the platform of the concrete type that `node` declares; None if it declares none or the abstract type.

    Raises InvalidRequest if the type is unknown or belongs to another abstract type.
    """
    type_name = node.declared_type()
    if type_name in ("", abstract, abstract[0].upper() + abstract[1:]):
        return None
    object_type = TYPES.get(type_name)
    if object_type is None or object_type.abstract != abstract or not object_type.platform:
        known = ", ".join(sorted(concrete_type(abstract, platform) for platform in known_platforms()))
        raise InvalidRequest(
            f"{type_name[:80]!r} is not a type of {abstract}; use one of: {known}", field=join(node.path, node.type_key)
        )
    return document_platform({TYPE_KEY: type_name})


def _known(name: str, path: str) -> Platform:
    platform = find_platform(name)
    if platform is None:
        known = ", ".join(each.name for each in known_platforms())
        raise InvalidRequest(f"{name[:80]!r} is not a platform; use one of: {known}", field=path)
    return platform
