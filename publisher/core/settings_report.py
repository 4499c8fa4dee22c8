"""The settings as an operator sees them: current values and their sources, unknown variables, and values that are only
fit for a trial. Generates the table in docs/operations.md."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from publisher.core.settings import Settings
from publisher.core.settings_reader import FILE_SUFFIX, PREFIX, allowed, type_hints, variable

OTHER_VARIABLES = {
    "PUBLISHER_DEVCLOUD_VENV": "The environment that the development cloud is installed in.",
}
"""Variables with our prefix that are not settings, and their meanings."""

_DEFAULTS = {"data_dir": "~/.local/share/image-publisher"}
"""Defaults that differ between machines, as the documents show them."""

_PASSWORD = re.compile(r"(://[^:/@]*):.*@")
_SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)


class Source(StrEnum):
    ENVIRONMENT = "environment"
    FILE = "file"
    """Read from the file that another variable names."""
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class InForce:
    """One setting. `value` is its current value, with secrets hidden; `allowed` says which values it may have."""

    name: str
    variable: str
    value: str
    source: Source
    allowed: str
    help: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A variable with our prefix that nothing reads, and the setting that was probably meant."""

    variable: str
    meant: str | None

    @property
    def problem(self) -> str:
        return f"{self.variable} is not a setting"

    @property
    def advice(self) -> str:
        return f"did you mean {self.meant}?" if self.meant else "see: publisher config"

    @property
    def message(self) -> str:
        return f"{self.problem}; {self.advice}"


@dataclass(frozen=True, slots=True)
class TrialOnly:
    """Something in the settings that is unfit for production, and what to do about it."""

    problem: str
    advice: str

    @property
    def message(self) -> str:
        return f"{self.problem}; {self.advice}"


def in_force(settings: Settings, environment: Mapping[str, str] | None = None) -> list[InForce]:
    """Return every setting, as read from this environment."""
    environment = os.environ if environment is None else environment
    hints = type_hints(Settings)
    return [
        InForce(
            setting.name,
            variable(setting.name),
            _shown(getattr(settings, setting.name)),
            _source(setting.name, environment),
            allowed(hints[setting.name]),
            setting.metadata["help"],
        )
        for setting in fields(Settings)
    ]


def unknown(environment: Mapping[str, str] | None = None) -> list[Unknown]:
    """Return the unknown variables with our prefix, which are probably typing errors."""
    environment = os.environ if environment is None else environment
    known = {variable(setting.name) for setting in fields(Settings)} | OTHER_VARIABLES.keys()
    readable = known | {f"{each}{FILE_SUFFIX}" for each in known - OTHER_VARIABLES.keys()}
    # Without the common prefix, which would make any two names look similar.
    names = [each.removeprefix(PREFIX) for each in known]
    found = []
    for each in sorted(environment):
        if each.startswith(PREFIX) and each not in readable:
            close = difflib.get_close_matches(each.removeprefix(PREFIX), names, n=1, cutoff=0.75)
            found.append(Unknown(each, PREFIX + close[0] if close else None))
    return found


def only_for_a_trial(settings: Settings) -> Iterator[TrialOnly]:
    """Yield what is unfit for production in these settings."""
    if settings.database.startswith("sqlite"):
        yield TrialOnly(
            "the ticket store is SQLite, which works on one machine only",
            "set PUBLISHER_DATABASE_URL to a PostgreSQL database",
        )
    if not settings.broker_url:
        yield TrialOnly("the broker is the embedded Redis, which works on one machine only", "set PUBLISHER_BROKER_URL")
    if not settings.broker_tls_verify:
        yield TrialOnly("the broker's certificate is not checked", "remove PUBLISHER_BROKER_TLS_VERIFY")
    if not settings.secret_key_file:
        yield TrialOnly(
            "the secret key was generated and may have no backup",
            "put a key into a file, back it up, and set PUBLISHER_SECRET_KEY_FILE",
        )
    if not settings.public_url:
        yield TrialOnly(
            "`Location` has the host name that the caller used",
            "set PUBLISHER_PUBLIC_URL to the URL that callers see",
        )


def table() -> str:
    """Return all settings as a table in Markdown."""
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    hints = type_hints(Settings)
    for setting in fields(Settings):
        default = _DEFAULTS.get(setting.name, setting.default)
        shown = "" if default in ("", None) else str(default)
        cells = f"`{variable(setting.name)}`", shown, allowed(hints[setting.name]), setting.metadata["help"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def hide_secrets(text: str) -> str:
    """Return a URL without its password and secret-looking parameters; any other text unchanged."""
    if "://" not in text:
        return text
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def _shown(value: object) -> str:
    return "" if value is None else hide_secrets(str(value))


def _source(name: str, environment: Mapping[str, str]) -> Source:
    if environment.get(variable(name)):
        return Source.ENVIRONMENT
    return Source.FILE if environment.get(variable(name) + FILE_SUFFIX) else Source.DEFAULT
