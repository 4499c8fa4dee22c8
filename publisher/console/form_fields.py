"""Turn the elements of any platform into form fields, from the same tables that documents are read by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from publisher.console.rendering import sentence, spelled
from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    STRING_LIMIT,
    Document,
    Field,
    Kind,
    Platform,
    installed,
    known_platforms,
)
from publisher.platforms.values import from_text

ACCOUNT_PREFIX = f"{CRED_ACCOUNT}."
"""Prefix of the account's fields, where they stand beside those of the published image."""

_NEVER_IN_FORMS = (Kind.LIST, Kind.OBJECT, Kind.POLYMORPHIC)

_CALLED = {"caBundle": "CA bundle", "md5sum": "MD5", "sha256sum": "SHA-256"}
_HINTS = {
    "displayName": "Defaults to the name of the image",
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


def installed_platforms() -> list[Platform]:
    """Return the platforms that have an installed plugin and a document type."""
    here = installed()
    return [each for each in known_platforms() if each.name in here]


def account_elements(platform: Platform, *, prefix: str = "", secrets_kept: bool = False) -> list[Element]:
    """Return the fields of an account, the required ones first.

    `secrets_kept`: an empty secret keeps the stored one.
    """
    needed = platform.required
    made = [
        _element(platform, each, prefix, required=each.name in needed, kept=each.secret and secrets_kept)
        for each in platform.account_fields
        if each.kind not in _NEVER_IN_FORMS
    ]
    return sorted(made, key=lambda each: needed.index(name) if (name := each.name[len(prefix) :]) in needed else 99)


def target_elements(platform: Platform) -> list[Element]:
    """Return the fields of the published image, its name first."""
    made = [
        _element(platform, each, "", required=False)
        for each in platform.target_fields
        if each.kind not in _NEVER_IN_FORMS
    ]
    return sorted(made, key=lambda each: (each.name != "displayName", each.kind == "tick"))


def filled_in(fields: Iterable[Field], form: Mapping[str, str], prefix: str = "") -> tuple[Document, dict[str, str]]:
    """Read a form. Returns the values by element, and the errors by form field."""
    document: Document = {}
    errors: dict[str, str] = {}
    for field in fields:
        path = prefix + field.name
        try:
            if field.kind is Kind.BOOLEAN:
                document[field.name] = path in form
            elif field.kind not in _NEVER_IN_FORMS and (value := _value(field, form.get(path, ""), path)) is not None:
                document[field.name] = value
        except InvalidRequest as error:
            errors |= field_errors(error)
    return document, errors


def field_errors(error: InvalidRequest, names: Mapping[str, str] = {}) -> dict[str, str]:
    """Return an error by the form's field. `names` maps the error's names to those that the form uses instead."""
    if not error.field:
        return {"": sentence(str(error))}
    name = names.get(error.field, error.field)
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
        case Kind.BOOLEAN:
            return "tick"
        case Kind.INTEGER | Kind.LONG:
            return "number"
        case Kind.URI:
            return "url"
    return "text"


def _value(field: Field, text: str, path: str) -> object | None:
    return from_text(field, text if field.secret else text.strip(), path)
