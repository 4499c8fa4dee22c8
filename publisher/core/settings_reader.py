"""Read a dataclass from environment variables with pydantic-settings, and report every invalid value at once.

The types of the dataclass hold the rules: `Annotated[int, Ge(1), Le(65535)]` has bounds; a callable, such as
`Annotated[str, check_http_url]`, gets the value and raises `ValueError` with the reason to refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from annotated_types import Ge, Le

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic_core import ErrorDetails
    from pydantic_settings import BaseSettings

PREFIX = "PUBLISHER_"
FILE_SUFFIX = "_FILE"
"""`PUBLISHER_DATABASE_URL_FILE` names a file with the value of `PUBLISHER_DATABASE_URL`. Works for every setting."""

S = TypeVar("S", bound="DataclassInstance")


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
    """The settings in an environment, and their errors. `settings` has the default for each invalid value."""

    settings: S
    problems: Sequence[InvalidSetting]


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for the value of a variable that gives none. No type accepts it."""

    reason: str


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def read(kind: type[S], environment: Mapping[str, str], rules: Sequence[Ordered] = ()) -> Reading[S]:
    """Read the settings, and check each value and the rules between them."""
    from pydantic import ValidationError

    model, problems = _model(kind), list[InvalidSetting]()
    try:
        found = model(environment=environment, skipped=())
    except ValidationError as error:
        hints = get_type_hints(kind, include_extras=True)
        problems = [_problem(each, environment, hints) for each in error.errors(include_url=False)]
        # Once more without them, so that rules can be checked between the other values.
        found = model(environment=environment, skipped=[name for each in problems for name in each.names])
    settings = kind(**{name: getattr(found, name) for name in found.model_fields_set})
    invalid = {name for each in problems for name in each.names}
    for rule in rules:
        if not rule.names & invalid and (message := rule.broken(settings)):
            problems.append(InvalidSetting(rule.names, message))
    return Reading(settings, problems)


def allowed(hint: object) -> str:
    """Return the values that a setting of this type may have, in words; empty if any text will do."""
    metadata = _rules(hint)
    if hint is bool:
        return "true or false"
    for each in metadata:
        if isinstance(each, OneOf):
            return str(each)
    least = next((each.ge for each in metadata if isinstance(each, Ge)), None)
    most = next((each.le for each in metadata if isinstance(each, Le)), None)
    return "" if least is None else f"{least} to {most}"


def _expected(hint: object) -> str:
    kinds: dict[object, str] = {int: "a whole number from ", float: "a number from "}
    return kinds.get(getattr(hint, "__origin__", hint), "") + allowed(hint)


def _rules(hint: object) -> tuple[Any, ...]:
    """Return what `Annotated` adds to a type."""
    found: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    return found


def _problem(error: ErrorDetails, environment: Mapping[str, str], hints: Mapping[str, object]) -> InvalidSetting:
    """Describe an error in our own words: those of pydantic quote the value, which may be a secret."""
    name = str(error["loc"][0])
    if isinstance(error["input"], _Unreadable):
        message = error["input"].reason
    elif error["type"] == "value_error":
        message = f"{_source(name, environment)}: {error['ctx']['error']}"
    else:
        message = f"{_source(name, environment)}: give {_expected(hints[name])}"
    return InvalidSetting(frozenset((name,)), message)


def _source(name: str, environment: Mapping[str, str]) -> str:
    """Return the variable that gives a setting: its own, or the one that names a file."""
    by_file = variable(name) + FILE_SUFFIX
    return by_file if environment.get(by_file) else variable(name)


def _given(name: str, environment: Mapping[str, str]) -> str | _Unreadable:
    """Return the text of a setting; empty if the environment does not have it."""
    plain, source = variable(name), _source(name, environment)
    if source == plain:
        return environment.get(plain, "")
    if environment.get(plain):
        return _Unreadable(f"{plain} and {source} are both set; keep one of them")
    file = environment[source]
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        # The error itself quotes the bytes, which may be a password.
        return _Unreadable(f"{source}: {file} cannot be read: it is not UTF-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return _Unreadable(f"{source}: {file} cannot be read: {reason}")
    return lines[0].strip() if lines else ""


@cache
def _model(kind: type[DataclassInstance]) -> type[BaseSettings]:
    """Return the model that reads and checks this dataclass."""
    # Imported here: it takes 0.1 s, and `publisher --help` reads no settings.
    from pydantic import ValidationInfo, create_model, field_validator
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

    hints = get_type_hints(kind, include_extras=True)
    checks: dict[str, list[Callable[[Any], object]]] = {
        name: [each for each in _rules(hint) if callable(each)] for name, hint in hints.items()
    }

    class Variables(PydanticBaseSettingsSource):
        """Reads each setting from its variable, or from the file that the variable with `_FILE` names."""

        def __init__(
            self, settings_cls: type[BaseSettings], environment: Mapping[str, str], skipped: Sequence[str]
        ) -> None:
            super().__init__(settings_cls)
            self._environment = environment
            self._skipped = skipped

        def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
            return _given(field_name, self._environment), field_name, False

        def __call__(self) -> dict[str, Any]:
            names = [each for each in self.settings_cls.model_fields if each not in self._skipped]
            found = {name: self.get_field_value(self.settings_cls.model_fields[name], name)[0] for name in names}
            return {name: value for name, value in found.items() if value}

    class Model(BaseSettings):
        model_config = SettingsConfigDict(frozen=True, validate_default=False, allow_inf_nan=False)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            *others: PydanticBaseSettingsSource,
            **more: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (Variables(settings_cls, **init_settings()),)

        @field_validator("*")
        @classmethod
        def _check(cls, value: Any, info: ValidationInfo) -> Any:
            for check in checks[info.field_name or ""]:
                check(value)
            return value

    # The dataclass has the defaults; here they only make each field optional.
    names = [each.name for each in fields(kind)]
    wanted: dict[str, Any] = {name: (hints[name], None) for name in names}
    return create_model(kind.__name__, __base__=Model, **wanted)
