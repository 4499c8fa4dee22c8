"""Render pages: templates, whose values are escaped, values in the form that people read, paths, and fields of forms.

The fields of a platform come from the same tables that documents are read by.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from markupsafe import Markup, escape

from publisher.core.cloud_check import Explored, Place
from publisher.core.errors import InvalidRequest
from publisher.core.image_attributes import ITEMS
from publisher.core.name_template import PLACEHOLDERS
from publisher.core.ticket import Older
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    LIFETIME,
    NAME_TEMPLATE,
    STRING_LIMIT,
    Document,
    Field,
    Kind,
    Platform,
    find_platform,
    installed,
    known_platforms,
    platform_of,
)
from publisher.platforms.values import from_text
from publisher.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

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
    # Imported here: an intake that only answers programs renders no page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

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
        signs_in_as=signs_in_as,
        called=_label,
        lines=lines,
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


def signs_in_as(account: Mapping[str, Any], platform: str) -> str:
    """Say who an account with these elements signs in as; empty if nothing says it."""
    return platform_of(platform).signs_in_as(account)


# Forms --------------------------------------------------------------------------------------------------------


ACCOUNT_PREFIX = f"{CRED_ACCOUNT}."
"""Prefix of the account's fields, where they stand beside those of the published image."""

_NEVER_IN_FORMS = (Kind.LIST, Kind.OBJECT, Kind.POLYMORPHIC)

_CALLED = {
    "caBundle": "CA bundle",
    "md5sum": "MD5",
    "sha256sum": "SHA-256",
    "minDisk": "Minimum disk in GiB",
    "minRam": "Minimum memory in MiB",
    "older": "Older images of the lineage",
    "keep": "Images that stay",
}
_OLDER = {
    Older.HIDE: "Hide in the cloud",
    Older.RENAME: "Rename with their date",
    Older.WITHDRAW: "Withdraw all but the newest",
}
_HINTS = {
    "expires": "When the service withdraws the image, such as 2027-01-31T18:00:00Z; needs a stored account",
    "lineage": "A name for images that replace each other",
    "older": "All but the first choice need a stored account",
    "keep": "How many images of the lineage stay, if older ones are withdrawn",
    "displayName": "Defaults to the name of the image",
    "nameTemplate": "A name for each image that has no other, such as {name}-{version}-{date}; possible are "
    + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS),
    "properties": "One in each line, such as os_distro=debian",
    "tags": "One in each line",
    "regions": "One in each line",
    "minDisk": "If empty: the size of the image's disk",
    "protected": "The cloud does not delete the published image until somebody lifts the protection",
    "caBundle": "PEM certificates of authorities to trust, in addition to the system's own",
}
"""For elements of any platform. A platform's own hints come first."""
_VERBS = ("is", "has", "must", "may", "cannot", "names", "leads", "consists")
"""An error that begins with one of these is a sentence about its field."""
_MEANINGS = {"the image root": "the directory for image files on the server"}
_KEPT = "Leave empty to keep the stored value"

PASSWORD_MIN = 8
"""Minimum number of characters in a password that is chosen in the console."""
_PASSWORD_MAX = 4096


@dataclass(frozen=True, slots=True)
class Element:
    """A field of a form.

    `name` is the element's path in the document. `kind` is `text`, `url`, `number`, `password`, `area`, `choice` or
    `tick`.
    """

    name: str
    label: str
    hint: str
    kind: str
    required: bool
    options: tuple[tuple[str, str], ...] = ()
    suggestions: tuple[Place, ...] = ()
    """Values that may be filled in, among others."""


def installed_platforms() -> list[Platform]:
    """Return the platforms that have an installed plugin and a document type."""
    here = installed()
    return [each for each in known_platforms() if each.name in here]


def chosen_platform(name: str) -> Platform:
    """Return the platform of that name; the first installed one if there is none."""
    return find_platform(name) or installed_platforms()[0]


def account_elements(platform: Platform, *, prefix: str = "", secrets_kept: bool = False) -> list[Element]:
    """Return the fields of an account, the required ones first, then the usual ones.

    `secrets_kept`: an empty secret keeps the stored one.
    """
    needed = platform.required
    made = [
        _element(platform, each, prefix, required=each.name in needed, kept=each.secret and secrets_kept)
        for each in platform.account_fields
        if each.kind not in _NEVER_IN_FORMS
    ]
    first = [*needed, *platform.usual]
    return sorted(made, key=lambda each: first.index(name) if (name := each.name[len(prefix) :]) in first else 99)


def target_elements(platform: Platform, explored: Mapping[str, Any] | None = None) -> list[Element]:
    """Return the fields of the published image, its name first.

    `explored`: what the last test of the account found. The fields suggest it.
    """
    seen = Explored.from_json(explored) if explored else Explored()
    suggested = {name: tuple(seen.places(kind)) for name, kind in platform.explored.items()}
    made = [
        replace(_element(platform, each, "", required=False), suggestions=suggested.get(each.name, ()))
        for each in platform.target_fields
        if each.kind not in _NEVER_IN_FORMS
    ]
    return sorted(made, key=lambda each: (each.name != "displayName", each.kind == "tick"))


def attribute_elements(platform: Platform) -> list[Element]:
    """Return the fields of the image attributes that the platform takes, and that of the name's template."""
    fields = (*platform.attribute_fields, *NAME_TEMPLATE)
    return [_element(platform, each, "", required=False) for each in fields]


def lifetime_elements(platform: Platform) -> list[Element]:
    """Return the fields that say how long images stay: the new one, and older ones of its lineage."""
    made = [_element(platform, each, "", required=False) for each in LIFETIME]
    offered = [(each, label) for each, label in _OLDER.items() if each in (Older.WITHDRAW, *platform.older)]
    choices = ("", "Leave as they are"), *offered
    return [replace(each, kind="choice", options=choices) if each.name == "older" else each for each in made]


def template_element(platform: Platform) -> Element:
    """Return the field of an account's name template."""
    return _element(platform, NAME_TEMPLATE[0], "", required=False)


def plain_account_fields(platform: str) -> list[str]:
    """Return the names of the fields of an account that are no secrets; none if the platform is unknown."""
    found = find_platform(platform)
    return list(found.open_names) if found else []


def filled_in(fields: Iterable[Field], form: Mapping[str, str], prefix: str = "") -> tuple[Document, dict[str, str]]:
    """Read a form. Returns the values by element, and the errors by form field."""
    document: Document = {}
    errors: dict[str, str] = {}
    for each in fields:
        path = prefix + each.name
        try:
            if each.kind is Kind.BOOLEAN:
                # What bound clients cannot read is left out unless it is asked for.
                if path in form or not each.json_only:
                    document[each.name] = path in form
            elif each.kind not in _NEVER_IN_FORMS and (value := _value(each, form.get(path, ""), path)) is not None:
                document[each.name] = value
        except InvalidRequest as error:
            errors |= field_errors(error)
    return document, errors


def filled_in_attributes(fields: Iterable[Field], form: Mapping[str, str]) -> tuple[Document, dict[str, str]]:
    """Read the image attributes in a form: those that are filled in or ticked. Returns the same as `filled_in`."""
    document: Document = {}
    errors: dict[str, str] = {}
    for each in fields:
        try:
            value = _attribute(each, form)
        except InvalidRequest as error:
            errors |= field_errors(error)
        else:
            document |= {} if value in (None, []) else {each.name: value}
    return document, errors


def _attribute(field: Field, form: Mapping[str, str]) -> object:
    text = form.get(field.name, "")
    if field.item is not None:
        return [_item(field.item, line.strip(), field.name) for line in text.splitlines() if line.strip()]
    if field.kind is Kind.BOOLEAN:
        return True if field.name in form else None
    return _value(field, text, field.name)


def _item(field: Field, line: str, path: str) -> object:
    if field.kind is not Kind.OBJECT:
        return line
    name, _, value = (part.strip() for part in line.partition("="))
    if not name or not value:
        raise InvalidRequest(f"'{line}' is not of the form name=value", field=path)
    return {"name": name, "value": value}


def lines(values: Iterable[object]) -> list[str]:
    """Return the items of a list, as a form has them: a property is `name=value`."""
    return [f"{each['name']}={each['value']}" if isinstance(each, dict) else str(each) for each in values]


def field_errors(error: InvalidRequest, names: Mapping[str, str] = {}) -> dict[str, str]:
    """Return an error by the form's field. `names` maps the error's names to those that the form uses instead."""
    if not error.field:
        return {"": sentence(str(error))}
    name = names.get(error.field, error.field)
    if (whole := name.partition("[")[0]) in ITEMS:  # the form has one field for the whole list
        name = whole
    words = str(error).removeprefix(f"{error.field}: ")
    for term, meaning in _MEANINGS.items():
        words = words.replace(term, f"{term}, {meaning}", 1)
    subject = _label(name.rpartition(".")[2])
    return {name: sentence(f"{subject} {words}" if words.partition(" ")[0] in _VERBS else f"{subject}: {words}")}


def new_password(form: Mapping[str, str]) -> str:
    """Return the new password. Raises `InvalidRequest`."""
    password = form.get("password", "")
    if not password:
        raise InvalidRequest("must not be empty", field="password")
    if len(password) < PASSWORD_MIN:
        raise InvalidRequest(f"must have at least {PASSWORD_MIN} characters", field="password")
    if len(password) > _PASSWORD_MAX:
        raise InvalidRequest(f"must have at most {_PASSWORD_MAX} characters", field="password")
    if password != form.get("again"):
        raise InvalidRequest("must be the same in both fields", field="password")
    return password


def _element(platform: Platform, field: Field, prefix: str, *, required: bool, kept: bool = False) -> Element:
    hint = _KEPT if kept else platform.hints.get(field.name) or _HINTS.get(field.name, "")
    required = required and not kept
    options = platform.choices.get(field.name, ())
    kind = "choice" if options else _kind(field)
    return Element(prefix + field.name, _label(field.name), hint, kind, required, options)


def _label(name: str) -> str:
    return _CALLED.get(name) or spelled(name)


def _kind(field: Field) -> str:
    if field.secret:
        return "password"
    if field.limit > STRING_LIMIT:
        return "area"
    match field.kind:
        case Kind.LIST:
            return "area"
        case Kind.BOOLEAN:
            return "tick"
        case Kind.INTEGER | Kind.LONG:
            return "number"
        case Kind.URI:
            return "url"
    return "text"


def _value(field: Field, text: str, path: str) -> object | None:
    return from_text(field, text if field.secret else text.strip(), path)
