"""Render pages: templates, whose values are escaped, values in the form that people read, and paths of pages."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from urllib.parse import parse_qsl, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from publisher.platforms.platform import find_platform
from publisher.version import __version__

BASE = "/console"
"""The path below which all pages are."""

NONE = "\N{EN DASH}"
"""Shown where there is no value."""
_STEP = 1024.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class PageParts:
    """The current state of a page's changing elements: HTML by the `id` of each element.

    `lists` has, for each list in the page, the ids of its items in order, by the list's `id`.
    """

    parts: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("publisher.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        size=size,
        rate=rate,
        duration=duration,
        moment=moment,
        plural=plural,
        spelled=spelled,
        site=site,
        segments=segments,
        platform=platform_label,
    )
    made.globals.update(base=BASE, static=static, version=__version__)
    return made


def render(template: str, /, **context: object) -> str:
    return environment().get_template(template).render(context)


@cache
def static(name: str) -> str:
    """Return the path of a style sheet or script, which changes with its content."""
    digest = hashlib.sha256(files("publisher.console").joinpath("static", name).read_bytes()).hexdigest()
    return f"{BASE}/static/{name}?v={digest[:12]}"


# Paths --------------------------------------------------------------------------------------------------------


def local(wanted: str) -> str | None:
    """Return the requested path if it is a page of the console, else None."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return None
    ours = wanted.startswith(f"{BASE}/") and not parts.netloc and wanted.isprintable() and "\\" not in wanted
    return wanted if ours and not wanted.startswith((f"{BASE}/sign-", f"{BASE}//")) else None


def with_parameter(path: str, name: str, value: object) -> str:
    """Return the path with this parameter in its query, in place of any other of the same name."""
    parts = urlsplit(path)
    query = [each for each in parse_qsl(parts.query) if each[0] != name]
    return f"{parts.path}?{urlencode([*query, (name, str(value))])}"


# Values -------------------------------------------------------------------------------------------------------


def size(count: float | None, *, down: bool = False) -> str:
    """Format bytes in the largest unit that fits. `down` never rounds up, for a size that is still growing."""
    if count is None:
        return NONE
    power = 0
    while count >= _STEP and power < len(_UNITS) - 1:
        count /= _STEP
        power += 1
    places = 1 if power and count < 100 else 0
    if down:
        count = math.floor(count * 10**places) / 10**places
    return f"{count:.{places}f} {_UNITS[power]}"


def rate(bytes_per_second: float | None) -> str:
    return NONE if bytes_per_second is None else f"{size(bytes_per_second)}/s"


def duration(seconds: float | None) -> str:
    """Format a duration in its two largest units."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return "0 s" if seconds < 0.05 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def moment(seconds: float | None, style: str = "full") -> str:
    """Format a time in UTC; a script converts it to the reader's zone.

    `style`: `full`, `clock`, or `ago` for the age.
    """
    if seconds is None:
        return NONE
    at = datetime.fromtimestamp(seconds, UTC)
    words = at.strftime("%H:%M:%S" if style == "clock" else "%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds"), escape(style), words
    )


def site(url: str) -> str:
    """Return only the scheme and host of a URL: its path or query may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return NONE
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def spelled(name: str) -> str:
    """Return the name of an API field in words: `keystoneUrl` is "Keystone URL"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    words = re.sub(r"\b(url|id|uri)\b", lambda match: match[1].upper(), words)
    return words[:1].upper() + words[1:]


def sentence(words: str) -> str:
    """Turn an error's text into a sentence, with a capital and a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".") if words else ""


def segments(address: str) -> str:
    """Format an address so that it breaks only at its slashes."""
    parts = re.findall(r"[^/]+/*|/+", address)
    return Markup('<span class="segments">{}</span>').format(
        Markup("").join(Markup("<span>{}</span>").format(each) for each in parts)
    )


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def platform_label(name: str) -> str:
    """Return the platform's label; its name if it has no document type."""
    found = find_platform(name)
    return found.label if found else name
