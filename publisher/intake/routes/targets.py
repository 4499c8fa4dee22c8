"""Target platforms and target formats: the platforms with an installed plugin, and the formats that they take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from starlette.responses import Response

from publisher.core.errors import NotFound
from publisher.core.image import target_format as target_of
from publisher.core.listing import ListField, ListFieldKind, Value, page
from publisher.intake.caller import EXTENSIONS, LISTING, Caller, Calling, Listed, Operation, api_router, not_shown
from publisher.platforms.platform import Document, find_platform, installed, platform_of
from publisher.platforms.target_formats import (
    API_FORMATS,
    CLOUD,
    DEFINED,
    format_number,
    platform_number,
    target_format_number,
    target_format_uri,
    target_platform_uri,
    target_type,
)

router = api_router()

_PLATFORMS = "/users/{uid}/targetplatforms"
_FORMATS = "/users/{uid}/targetformats"


@dataclass(frozen=True, slots=True)
class _Target:
    """A target platform; with a format, a target format, whose name is a platform or a kind of machine."""

    name: str
    format: str = ""

    @property
    def number(self) -> int:
        return target_format_number(self.name, self.format) if self.format else platform_number(self.name)

    @property
    def account_type(self) -> str | None:
        """The platform whose accounts publish it; None if any platform that takes the format does."""
        return self.name if target_type(self.name) == CLOUD else None


_Fields: TypeAlias = Mapping[str, ListField[Callable[[_Target], Value | None]]]


def _yes(_: _Target) -> bool:
    return True


_PLATFORM_FIELDS: _Fields = {
    "dbId": ListField(lambda target: target.number, ListFieldKind.NUMBER),
    "name": ListField(lambda target: target.name, ListFieldKind.NAME),
    "type": ListField(lambda target: target.name, ListFieldKind.NAME),
    "access": ListField(_yes, ListFieldKind.BOOLEAN),
    "active": ListField(_yes, ListFieldKind.BOOLEAN),
}
_FORMAT_FIELDS: _Fields = {
    "dbId": ListField(lambda target: target.number, ListFieldKind.NUMBER),
    "name": ListField(lambda target: target.name, ListFieldKind.NAME),
    "format.name": ListField(lambda target: target.format, ListFieldKind.NAME),
    "type": ListField(lambda target: target_type(target.name), ListFieldKind.NAME),
    "credAccountType": ListField(lambda target: target.account_type, ListFieldKind.NAME),
    "access": ListField(_yes, ListFieldKind.BOOLEAN),
    "active": ListField(_yes, ListFieldKind.BOOLEAN),
}


# The installed plugins are read once, so these answers are dated with the start of the service.


@router.get(_PLATFORMS)
@Operation(
    "List the target platforms",
    entitlement="image_generate",
    answer="targetPlatforms",
    parameters=(*LISTING, EXTENSIONS),
)
def target_platforms(caller: Calling, uid: str, listing: Listed) -> Response:
    owner = caller.owner(uid)
    shown = caller.platforms
    offered = [_Target(name) for name in _offered() if name in shown]
    found = page(offered, _PLATFORM_FIELDS, listing)
    documents = [_platform_document(owner, each) for each in found.items]
    return caller.answer({"total": found.total, "targetPlatforms": documents}, caller.services.started)


@router.get(_PLATFORMS + "/{platform}")
@Operation("Get a target platform", entitlement="image_generate", answer="targetPlatform", parameters=(EXTENSIONS,))
def target_platform(caller: Calling, uid: str, platform: str) -> Response:
    """Get a platform by its name or its number."""
    owner = caller.owner(uid)
    found = next((each for each in _offered() if platform in (each, str(platform_number(each)))), None)
    if found is None:
        raise NotFound(f"there is no target platform '{platform}'")
    caller.check_shown(found)
    return caller.answer(_platform_document(owner, _Target(found)), caller.services.started)


@router.get(_FORMATS)
@Operation(
    "List the target formats", entitlement="image_generate", answer="targetFormats", parameters=(*LISTING, EXTENSIONS)
)
def target_formats(caller: Calling, uid: str, listing: Listed) -> Response:
    owner = caller.owner(uid)
    found = page(_shown(caller, _targets()), _FORMAT_FIELDS, listing)
    documents = [_format_document(owner, each) for each in found.items]
    return caller.answer({"total": found.total, "targetFormats": documents}, caller.services.started)


@router.get(_FORMATS + "/{platform}/{format}")
@Operation("Get a target format", entitlement="image_generate", answer="targetFormat", parameters=(EXTENSIONS,))
def target_format(caller: Calling, uid: str, platform: str, format: str) -> Response:
    """Get a format. `platform` is the target's name, such as `raw`, or a platform that takes the format."""
    owner = caller.owner(uid)
    common = platform in _offered() and format in platform_of(platform).takes
    found = _Target(target_of(format) if common else platform, format)
    if found not in _targets():
        raise NotFound(f"the target platform '{platform}' has no format '{format}'")
    if not _shown(caller, [found]):
        raise not_shown(platform)
    return caller.answer(_format_document(owner, found), caller.services.started)


def _offered() -> list[str]:
    """Return the platforms that have a plugin and that documents know: no request could name another."""
    return [name for name in installed() if (known := find_platform(name)) and known.name == name]


def _targets() -> list[_Target]:
    """Return the formats of each platform; then the common formats that a platform takes."""
    own = [_Target(name, format) for name in _offered() for format in platform_of(name).formats]
    common = dict.fromkeys(format for name in _offered() for format in platform_of(name).takes)
    return own + [_Target(target_of(format), format) for format in common]


def _shown(caller: Caller, targets: list[_Target]) -> list[_Target]:
    """Return the targets that the answer may name."""
    extended, platforms = caller.extended, caller.platforms
    return [
        each
        for each in targets
        if (extended or each.format in API_FORMATS) and (each.account_type is None or each.account_type in platforms)
    ]


def _platform_document(owner: str, target: _Target) -> Document:
    return {
        **_object(target),
        "name": target.name,
        "type": target.name,
        "access": True,
        "active": True,
        "uri": target_platform_uri(owner, target.name),
    }


def _format_document(owner: str, target: _Target) -> Document:
    return {
        **_object(target),
        "name": target.name,
        "format": {"dbId": format_number(target.format), "name": target.format},
        "type": target_type(target.name),
        "credAccountType": target.account_type,
        "access": True,
        "active": True,
        "uri": target_format_uri(owner, target.name, target.format),
    }


def _object(target: _Target) -> Document:
    return {
        "created": DEFINED,
        "dbId": target.number,
        "digest": hashlib.sha256(f"{target.name} {target.format} {DEFINED}".encode()).hexdigest()[:32],
        "lastModified": DEFINED,
    }
