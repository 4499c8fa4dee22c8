"""Image attributes: what an image can be given in a cloud, by the same elements for every platform.

These are the rules that hold for every cloud. A platform says which attributes it takes, and may have rules of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.core.names import check_line, check_name, check_text

PROPERTIES, TAGS, REGIONS, HIDDEN, SHARED_WITH = "properties", "tags", "regions", "hidden", "sharedWith"
MIN_DISK, MIN_RAM, PROTECTED, VISIBILITY = "minDisk", "minRam", "protected", "visibility"
ATTRIBUTES = (PROPERTIES, TAGS, REGIONS, HIDDEN, SHARED_WITH, MIN_DISK, MIN_RAM, PROTECTED, VISIBILITY)
ITEMS = {PROPERTIES: "property", TAGS: "tag", REGIONS: "region", SHARED_WITH: "project"}
"""The lists among them, each with the name of its items. An item is a text; a property has a `name` and a `value`."""
VISIBILITIES = ("private", "shared", "community", "public")
PROPERTY_VALUE_MAX = 4096
"""In characters. Names, tags, regions and projects have at most 255."""


def attributes_of(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a target has. An empty list is none."""
    return {name: target[name] for name in ATTRIBUTES if name in target and target[name] not in (None, "", [])}


def item_path(name: str, position: int) -> str:
    """Return the path of an item of a list, as the reader of a document names it."""
    return f"{name}[{position}]"


def check_taken(attributes: Collection[str], taken: Collection[str], platform: str) -> None:
    """Check that a platform takes these attributes. Raises `InvalidRequest` that names one that it does not."""
    for name in attributes:
        if name not in taken:
            known = ", ".join(each for each in ATTRIBUTES if each in taken) or "no image attributes"
            raise InvalidRequest(f"'{platform}' takes no '{name}'; it takes {known}", field=name)


def check_values(attributes: Mapping[str, Any]) -> None:
    """Check the value of each attribute. Raises `InvalidRequest` that names the element at fault."""
    for name in ITEMS:
        items = attributes.get(name, ())
        texts = _property_names(items) if name == PROPERTIES else list(items)
        end = ".name" if name == PROPERTIES else ""
        for position, text in enumerate(texts):
            check_name(text, item_path(name, position) + end)
        # Some databases of clouds do not distinguish upper and lower case in the names of properties.
        compared = [text.casefold() for text in texts] if name == PROPERTIES else texts
        if (again := _first_repeated(compared)) is not None:
            raise InvalidRequest(f"'{texts[again]}' is given more than once", field=item_path(name, again) + end)
    for name in (MIN_DISK, MIN_RAM):
        if attributes.get(name, 0) < 0:
            raise InvalidRequest("must not be negative", field=name)
    visibility = attributes.get(VISIBILITY)
    if visibility not in (None, *VISIBILITIES):
        raise InvalidRequest(f"'{visibility}' is unknown; use one of {', '.join(VISIBILITIES)}", field=VISIBILITY)


def check_together(attributes: Mapping[str, Any], public_image: bool | None) -> None:
    """Check that the attributes do not contradict each other, or the element `publicImage`. Raises `InvalidRequest`."""
    visibility = attributes.get(VISIBILITY)
    if visibility and public_image is not None and public_image != (visibility == "public"):
        raise InvalidRequest(
            f"'{visibility}' contradicts publicImage, which is {str(public_image).lower()}; leave one of them out",
            field=VISIBILITY,
        )
    if SHARED_WITH in attributes:
        if public_image:
            visibility = "public"
        if visibility not in (None, "shared"):
            raise InvalidRequest(
                f"cannot be used with a {visibility} image, only with visibility 'shared'; leave one of them out",
                field=SHARED_WITH,
            )


def check_min_disk(target: Mapping[str, Any], needed: int) -> None:
    """Check that `minDisk` is at least what the image needs, in GiB. Raises `InvalidRequest`."""
    given = target.get(MIN_DISK)
    if given is not None and given < needed:
        raise InvalidRequest(
            f"{given} GiB are too little: the disk of the image has {needed} GiB; give at least {needed}, or leave it"
            " out",
            field=MIN_DISK,
        )


def _property_names(properties: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of properties. Raises `InvalidRequest` for one without a name or a value."""
    for position, each in enumerate(properties):
        path = item_path(PROPERTIES, position)
        for part in ("name", "value"):
            if not each.get(part):
                raise InvalidRequest("is needed", field=f"{path}.{part}")
        value = str(each["value"])
        if len(value) > PROPERTY_VALUE_MAX:
            raise InvalidRequest(f"is longer than {PROPERTY_VALUE_MAX} characters", field=f"{path}.value")
        check_line(check_text(value, f"{path}.value"), f"{path}.value")
    return [str(each["name"]) for each in properties]


def _first_repeated(texts: Sequence[str]) -> int | None:
    seen: set[str] = set()
    for position, text in enumerate(texts):
        if text in seen:
            return position
        seen.add(text)
    return None
