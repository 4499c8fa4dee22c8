"""Find the concrete type of an object of an abstract type.

A caller declares it in one of three ways: it names the type; it names none, and the account's target platform decides;
or it leaves the type empty, as the API's manual does, which is the same as naming none. A published image and its
account have the same platform, so either decides for the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.schema import TYPES
from publisher.platforms.platform import CRED_ACCOUNT, PUBLISH_IMAGE, Platform, find_platform, known_platforms

_BY_NAME = {platform.name: platform for platform in known_platforms()}


@dataclass(frozen=True, slots=True)
class Told:
    """What an account in a request says about its platform, before its other elements are read.

    type_name: the concrete type it names, or "".
    platform_name, platform_type: `targetPlatform/name` and `targetPlatform/type`, or "".
    reference: it has a `dbId`, `uri` or `name`, by which a stored account may be found.
    """

    type_name: str = ""
    platform_name: str = ""
    platform_type: str = ""
    reference: bool = False


def declared_platform(abstract: str, type_name: str, path: str) -> Platform | None:
    """Return the platform of the concrete type that a request names; None if it names none or the abstract type.

    Raises InvalidRequest, which names `path`, if the type is unknown or belongs to another abstract type.
    """
    if type_name in ("", abstract, abstract[0].upper() + abstract[1:]):
        return None
    object_type = TYPES.get(type_name)
    if object_type is None or object_type.abstract != abstract or not object_type.platform:
        known = ", ".join(sorted(concrete_type(abstract, platform) for platform in known_platforms()))
        raise InvalidRequest(f"{type_name[:80]!r} is not a type of {abstract}; those are {known}", field=path)
    return _BY_NAME[object_type.platform]


def account_platform(told: Told, path: str, type_key: str) -> Platform | None:
    """Return the platform of an account; None if it does not say.

    Raises InvalidRequest, which names the element at fault.

    The declared type decides first, then `targetPlatform/type`, which is an enumeration. `targetPlatform/name` comes
    last: it is a label that an administrator may choose, so it may be unknown here, or contradict the others.
    """
    declared = declared_platform(CRED_ACCOUNT, told.type_name, join(path, type_key))
    by_type = None
    if told.platform_type:
        by_type = _known(told.platform_type, join(path, "targetPlatform.type"))
        if declared and declared is not by_type:
            raise InvalidRequest(
                f"{told.platform_type[:80]!r} contradicts the account's type, {declared.cred_account_type}",
                field=join(path, "targetPlatform.type"),
            )
    if declared or by_type:
        return declared or by_type
    if not told.platform_name:
        return None
    if told.reference:
        return find_platform(told.platform_name)
    return _known(told.platform_name, join(path, "targetPlatform.name"))


def image_platform(
    declared: Platform | None, account: Platform | None, account_path: str, fallback: Platform | None
) -> Platform | None:
    """Return the platform of a published image and its account; `fallback` if neither says.

    Raises InvalidRequest if the two disagree.
    """
    if declared and account and declared is not account:
        raise InvalidRequest(
            f"an account of {account.name} cannot be used with {declared.publish_image_type}", field=account_path
        )
    return declared or account or fallback


def concrete_type(abstract: str, platform: Platform | None) -> str:
    """Return the name of the concrete type for that platform; without a platform, that of the abstract type."""
    if platform is None:
        return abstract
    return platform.publish_image_type if abstract == PUBLISH_IMAGE else platform.cred_account_type


def join(path: str, name: str) -> str:
    """Return the path of the element `name` inside the one at `path`."""
    return f"{path}.{name}" if path else name


def _known(name: str, path: str) -> Platform:
    platform = find_platform(name)
    if platform is None:
        known = ", ".join(each.name for each in known_platforms())
        raise InvalidRequest(f"{name[:80]!r} is not a platform; those are {known}", field=path)
    return platform
