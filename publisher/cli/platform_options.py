"""Options of a command that a platform defines: `--access-key-id` for its element `accessKeyId`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from publisher.cli.command import ask_password, password_from_stdin
from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import Field, Kind, Platform
from publisher.platforms.values import from_text

_STRUCTURED = (Kind.LIST, Kind.OBJECT, Kind.POLYMORPHIC)


def option_name(element: str) -> str:
    """Return the option of an element."""
    return "--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", element).lower()


def read_options(arguments: Sequence[str], platform: Platform) -> dict[str, Any]:
    """Read the elements of an account from `--option value` and `--option=value`. Raises `InvalidRequest`."""
    known = {option_name(each.name): each for each in _plain_fields(platform)}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if option not in known:
            options = ", ".join(known) or "none"
            raise InvalidRequest(f"{option} is not an option of the platform {platform.name}; it has {options}")
        if not given:
            if not rest:
                raise InvalidRequest(f"{option} needs a value")
            value = rest.pop(0)
        field = known[option]
        found[field.name] = from_text(field, value, option)
    return found


def read_secrets(platform: Platform, *, stdin: bool) -> dict[str, str]:
    """Read the account's secrets: one line each of the standard input, in the platform's order, or at the terminal."""
    secrets = [each for each in platform.account_fields if each.secret and each.kind not in _STRUCTURED]
    if stdin:
        return {each.name: password_from_stdin() for each in secrets}
    return {each.name: ask_password(each.name, instead="use --password-stdin") for each in secrets}


def _plain_fields(platform: Platform) -> list[Field]:
    return [each for each in platform.account_fields if not each.secret and each.kind not in _STRUCTURED]
