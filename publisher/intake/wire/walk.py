"""The walk along the schema that both codecs share: read a parsed body into a Document, and check one that is written.

A codec provides a body as nodes; this module knows the schema, and nothing of XML or JSON.

The elements of a published image and of an account depend on their platform, so the platform is found first. A caller
declares it in one of three ways: it names the concrete type; it names none, and the account's target platform decides;
or it leaves the type empty, as the API's manual does, which is the same as naming none. A published image and its
account have the same platform, so either decides for the other. If neither does, a stored account may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.schema import JSON_ONLY, REQUEST_ONLY, TYPES, root_field
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

AccountResolver = Callable[[Document], Platform | None]
"""Finds the platform of an account that does not declare one, from the elements that all accounts share."""

_BY_NAME = {platform.name: platform for platform in known_platforms()}


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


def read(node: Node, root: str, resolve: AccountResolver | None = None) -> Document:
    """Read the document whose root is `node`. `resolve` is asked if neither the document nor its account declares a
    platform.
    """
    field = root_field(root)
    platform = _platform_of(node, field.type, resolve) if field.kind is Kind.POLYMORPHIC else None
    return _read_object(node, field, platform)


def concrete_type(abstract: str, platform: Platform | None) -> str:
    """Return the name of the concrete type for that platform; without a platform, that of the abstract type."""
    if platform is None:
        return abstract
    return platform.publish_image_type if abstract == PUBLISH_IMAGE else platform.cred_account_type


def document_platform(document: Document) -> Platform | None:
    """Return the platform of a published image or an account that was read; None if nothing declared it."""
    type_name = document.get(TYPE_KEY)
    return _BY_NAME[TYPES[str(type_name)].platform] if type_name else None


def join(path: str, name: str) -> str:
    """Return the path of the element `name` inside the one at `path`."""
    return f"{path}.{name}" if path else name


# Reading -------------------------------------------------------------------------------------------------------------


def _read_object(node: Node, field: Field, platform: Platform | None) -> Document:
    """Read an object. `platform` is the one of the object around it, if that has one."""
    if field.kind is not Kind.POLYMORPHIC:
        return _read_fields(node, TYPES[field.type], platform)
    platform = platform or _platform_of(node, field.type)
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


# Platforms ----------------------------------------------------------------------------------------------------------


def _platform_of(node: Node, abstract: str, resolve: AccountResolver | None = None) -> Platform | None:
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
        return resolve(_read_fields(account, TYPES[CRED_ACCOUNT], None))
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
    return _BY_NAME[object_type.platform]


def _known(name: str, path: str) -> Platform:
    platform = find_platform(name)
    if platform is None:
        known = ", ".join(each.name for each in known_platforms())
        raise InvalidRequest(f"{name[:80]!r} is not a platform; use one of: {known}", field=path)
    return platform


# Writing ------------------------------------------------------------------------------------------------------------

# A mistake here is one of this service and not of a caller, so it is a ValueError.


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
