"""Where images can be published to, and as what: the platforms that plugins are installed for, and their formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import APIRouter, Response

from publisher.core.errors import NotFound
from publisher.core.listing import Field, Kind, Value, page
from publisher.core.platforms import formats, installed
from publisher.core.uris import target_format_uri, target_platform_uri
from publisher.intake.exchange import Calling
from publisher.intake.listing import Listed
from publisher.intake.wire.fields import Document
from publisher.intake.wire.platforms import find_platform

router = APIRouter()

_PLATFORMS = "/users/{uid}/targetplatforms"
_FORMATS = "/users/{uid}/targetformats"
_ENTITLEMENT = "image_generate"


@dataclass(frozen=True, slots=True)
class _Target:
    """A platform, or one of its formats. Its number would change with the plugins that are installed: it has none."""

    platform: str
    format: str = ""


_Fields: TypeAlias = Mapping[str, Field[Callable[[_Target], Value | None]]]


def _yes(_: _Target) -> bool:
    return True


_PLATFORM_FIELDS: _Fields = {
    "name": Field(lambda target: target.platform, Kind.NAME),
    "type": Field(lambda target: target.platform, Kind.NAME),
    "access": Field(_yes, Kind.BOOLEAN),
    "active": Field(_yes, Kind.BOOLEAN),
}
_FORMAT_FIELDS: _Fields = {
    "name": Field(lambda target: target.platform, Kind.NAME),
    "format.name": Field(lambda target: target.format, Kind.NAME),
    "type": Field(lambda _: "cloud", Kind.NAME),
    "credAccountType": Field(lambda target: target.platform, Kind.NAME),
    "access": Field(_yes, Kind.BOOLEAN),
    "active": Field(_yes, Kind.BOOLEAN),
}


# What is installed is read once: the date of these answers is that of the service's start.


@router.get(_PLATFORMS)
def target_platforms(caller: Calling, uid: str, listing: Listed) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    found = page([_Target(name) for name in _offered()], _PLATFORM_FIELDS, listing)
    documents = [_platform_document(owner, each) for each in found.items]
    return caller.answer(
        "targetPlatforms", {"total": found.total, "targetPlatforms": documents}, caller.services.started
    )


@router.get(_PLATFORMS + "/{platform}")
def target_platform(caller: Calling, uid: str, platform: str) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    if platform not in _offered():
        raise NotFound("there is no such target platform")
    return caller.answer("targetPlatform", _platform_document(owner, _Target(platform)), caller.services.started)


@router.get(_FORMATS)
def target_formats(caller: Calling, uid: str, listing: Listed) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    offered = [_Target(name, format) for name in _offered() for format in formats(name)]
    found = page(offered, _FORMAT_FIELDS, listing)
    documents = [_format_document(owner, each) for each in found.items]
    return caller.answer("targetFormats", {"total": found.total, "targetFormats": documents}, caller.services.started)


@router.get(_FORMATS + "/{platform}/{format}")
def target_format(caller: Calling, uid: str, platform: str, format: str) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    if platform not in _offered() or format not in formats(platform):
        raise NotFound("there is no such target format")
    return caller.answer("targetFormat", _format_document(owner, _Target(platform, format)), caller.services.started)


def _offered() -> list[str]:
    """What a plugin is installed for that documents know of: no request could name another."""
    return [name for name in installed() if (known := find_platform(name)) and known.name == name]


def _platform_document(owner: str, target: _Target) -> Document:
    return {
        "digest": _digest(target),
        "name": target.platform,
        "type": target.platform,
        "access": True,
        "active": True,
        "uri": target_platform_uri(owner, target.platform),
    }


def _format_document(owner: str, target: _Target) -> Document:
    return {
        "digest": _digest(target),
        "name": target.platform,
        "format": {"name": target.format},
        "type": "cloud",
        "credAccountType": target.platform,
        "access": True,
        "active": True,
        "uri": target_format_uri(owner, target.platform, target.format),
    }


def _digest(target: _Target) -> str:
    return hashlib.sha256(f"{target.platform} {target.format}".encode()).hexdigest()[:32]
