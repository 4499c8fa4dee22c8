"""Options of `publisher publish` that say how long images stay: the new one, and older ones of its lineage."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from publisher.cli.command import whole_number

LIFETIME = "Lifetime"
OPTIONS = {"expires": "--expires", "lineage": "--lineage", "older": "--older", "keep": "--keep"}
"""The options, by the elements of a request that they set."""

Expires = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="When the service withdraws the image, such as 2027-01-31T18:00:00Z. Needs --account.",
        rich_help_panel=LIFETIME,
    ),
]
Lineage = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Name that you choose for images that replace each other.", rich_help_panel=LIFETIME
    ),
]
Older = Annotated[
    str | None,
    typer.Option(
        metavar="leave|hide|rename|withdraw",
        help="What happens to older images of the lineage (default: leave). All but leave need --account.",
        rich_help_panel=LIFETIME,
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(1, (1 << 31) - 1),
        metavar="NUMBER",
        help="Number of images of the lineage that stay, with --older withdraw.",
        rich_help_panel=LIFETIME,
    ),
]


def lifetime(expires: str | None, lineage: str | None, older: str | None, keep: int | None) -> dict[str, Any]:
    """Return the values for a `PublishRequest`. Raises `InvalidRequest` for a time that cannot be read."""
    return {"expires": _moment(expires), "lineage": lineage, "older": older, "keep": keep}


def _moment(text: str | None) -> float | None:
    """Return a time in seconds since the epoch."""
    if not text:
        return None
    from publisher.platforms.platform import Field, Kind
    from publisher.platforms.values import from_text

    found: Any = from_text(Field("expires", Kind.DATE_TIME), text, "expires")
    return float(found.timestamp()) if found else None
