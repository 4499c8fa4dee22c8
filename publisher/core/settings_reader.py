"""Read a dataclass from environment variables, and report every invalid value at once.

The types of the dataclass hold the rules: `Annotated[int, Between(1, 65535)]` has bounds; a callable, such as
`Annotated[str, check_http_url]`, gets the value and raises `ValueError` with the reason to refuse it.

Every process reads the settings when it starts, so this needs no library that is slow to import.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PREFIX = "PUBLISHER_"
FILE_SUFFIX = "_FILE"
"""`PUBLISHER_DATABASE_URL_FILE` names a file with the value of `PUBLISHER_DATABASE_URL`. Works for every setting."""

S = TypeVar("S", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Between:
    """The smallest and the largest number that a setting may have."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """The only texts that a setting may have, in any case."""

    texts: tuple[str, ...]

    def __call__(self, text: str) -> None:
        if text.upper() not in (each.upper() for each in self.texts):
            raise ValueError(f"give {self}")

    def __str__(self) -> str:
        return f"{', '.join(self.texts[:-1])} or {self.texts[-1]}"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A rule: the sum of the `smaller` settings is less than the `larger` one. With `or_equal`, it may be as large."""

    smaller: tuple[str, ...]
    larger: str
    or_equal: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self.smaller, self.larger))

    def broken(self, settings: DataclassInstance) -> str | None:
        """Return what is wrong with these settings, with the values; None if they keep the rule."""

        def shown(name: str) -> str:
            return f"{variable(name)} ({getattr(settings, name):g})"

        total, limit = sum(getattr(settings, name) for name in self.smaller), getattr(settings, self.larger)
        if total < limit or (self.or_equal and total == limit):
            return None
        words = "at most" if self.or_equal else "less than"
        return f"{' plus '.join(map(shown, self.smaller))} must be {words} {shown(self.larger)}"


@dataclass(frozen=True, slots=True)
class InvalidSetting:
    """Settings that are refused, and why. The message never contains a secret."""

    names: frozenset[str]
    message: str


@dataclass(frozen=True, slots=True)
class Reading(Generic[S]):
    """What an environment contains. In `settings`, each invalid value is replaced by the default."""

    settings: S
    problems: Sequence[InvalidSetting]


class _Unreadable(Exception):
    """A variable gives no value. The message says why."""


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def read(kind: type[S], environment: Mapping[str, str], rules: Sequence[Ordered] = ()) -> Reading[S]:
    """Read the settings, and check each value and the rules between them."""
    values, problems = dict[str, Any](), list[InvalidSetting]()
    for name, hint in type_hints(kind).items():
        try:
            if text := _given(name, environment):
                values[name] = _value(text, hint)
        except _Unreadable as error:
            problems.append(InvalidSetting(frozenset((name,)), str(error)))
        except ValueError as error:
            problems.append(InvalidSetting(frozenset((name,)), f"{_source(name, environment)}: {error}"))
    settings = kind(**values)
    invalid = {name for each in problems for name in each.names}
    for rule in rules:
        if not rule.names & invalid and (message := rule.broken(settings)):
            problems.append(InvalidSetting(rule.names, message))
    return Reading(settings, problems)


@cache
def type_hints(kind: type[DataclassInstance]) -> Mapping[str, Any]:
    """Return the types of the settings, with their rules."""
    return get_type_hints(kind, include_extras=True)


def allowed(hint: object) -> str:
    """Return the values that a setting of this type may have, in words; empty if any text will do."""
    if hint is bool:
        return "true or false"
    return next((str(each) for each in _rules(hint) if isinstance(each, OneOf | Between)), "")


def _expected(hint: object) -> str:
    kinds: dict[object, str] = {int: "a whole number from ", float: "a number from "}
    return kinds.get(getattr(hint, "__origin__", hint), "") + allowed(hint)


def _rules(hint: object) -> tuple[Any, ...]:
    """Return what `Annotated` adds to a type."""
    found: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    return found


def _value(text: str, hint: object) -> object:
    """Return the value that a text stands for. Raises `ValueError`, which never quotes the text: it may be a secret."""
    refused = ValueError(f"give {_expected(hint)}")
    try:
        value = _PARSERS[getattr(hint, "__origin__", hint)](text)
    except ValueError:
        raise refused from None
    for rule in _rules(hint):
        if isinstance(rule, Between) and not rule.least <= value <= rule.most:
            raise refused
        if callable(rule):
            rule(value)
    return value


_WHOLE = re.compile(r"\s*([+-]?[0-9_]+)(?:\.0+)?\s*")
_TRUE, _FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def _whole_number(text: str) -> int:
    if not (found := _WHOLE.fullmatch(text)):
        raise ValueError
    return int(found[1])


def _finite_number(text: str) -> float:
    number = float(text)
    # Python also reads the digits of other scripts, which a setting has only by mistake.
    if not math.isfinite(number) or not text.isascii():
        raise ValueError
    return number


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


_PARSERS: Mapping[object, Callable[[str], Any]] = {
    bool: _truth,
    int: _whole_number,
    float: _finite_number,
    str: str,
    Path: Path,
    Path | None: Path,
}


def _source(name: str, environment: Mapping[str, str]) -> str:
    """Return the variable that gives a setting: its own, or the one that names a file."""
    by_file = variable(name) + FILE_SUFFIX
    return by_file if environment.get(by_file) else variable(name)


def _given(name: str, environment: Mapping[str, str]) -> str:
    """Return the text of a setting; empty if the environment does not have it. Raises `_Unreadable`."""
    plain, source = variable(name), _source(name, environment)
    if source == plain:
        return environment.get(plain, "")
    if environment.get(plain):
        raise _Unreadable(f"{plain} and {source} are both set; keep one of them")
    file = environment[source]
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        # The error itself quotes the bytes, which may be a password.
        raise _Unreadable(f"{source}: {file} cannot be read: it is not UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise _Unreadable(f"{source}: {file} cannot be read: {reason}") from None
    return lines[0].strip() if lines else ""
