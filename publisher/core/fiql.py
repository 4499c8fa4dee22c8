"""FIQL, the query language for filtering lists.

Follows draft-nottingham-atompub-fiql-00, but without tests for mere presence and without durations. In addition, values
may be quoted, with single or double quotes, and then contain any character:
`name=='two words';(format.name==ISO,size=lt=1000)`. `;` (and) binds tighter than `,` (or). A `*` in a value stands for
any text. In quotes, a backslash escapes the next character. This module does not know the fields of a list or what they
can be compared with: see `publisher.core.listing`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from publisher.core.errors import InvalidRequest

LENGTH_MAX = 4096
"""Maximum length of a query, in characters."""
COMPARISONS_MAX = 100
DEPTH_MAX = 20
"""Maximum nesting of parentheses."""

OPERATORS = ("==", "!=", "=lt=", "=le=", "=gt=", "=ge=")

_SHOWN = 20
"""How many characters of a query a message shows."""

_SELECTOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OPERATOR = re.compile(r"[!=<>][A-Za-z]*=?")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_BARE = re.compile(r"[^\s;,()'\"][^\s;,()]*")
_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison. `pieces` is the value split at its wildcards: a single piece if it has none."""

    selector: str
    operator: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """Two or more expressions, combined by "and" (`every`) or by "or"."""

    every: bool
    parts: tuple[Expression, ...]


Expression: TypeAlias = "Comparison | Joined"


def parse(query: str) -> Expression:
    """Parse a query. Raises `InvalidRequest` if it is malformed, too long or nested too deeply."""
    if len(query) > LENGTH_MAX:
        raise _wrong(f"{len(query)} characters are too many; at most {LENGTH_MAX} are accepted")
    if "\0" in query:  # PostgreSQL rejects it
        raise _wrong("the character U+0000 is not accepted")
    return _Parser(query).whole()


class _Parser:
    """A recursive descent parser, limited to a depth of `DEPTH_MAX`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0

    def whole(self) -> Expression:
        found = self._any(0)
        if self._at < len(self._text):
            raise self._expected("';', ',' or the end")
        return found

    def _any(self, depth: int) -> Expression:
        parts = [self._every(depth)]
        while self._has(","):
            parts.append(self._every(depth))
        return parts[0] if len(parts) == 1 else Joined(False, tuple(parts))

    def _every(self, depth: int) -> Expression:
        parts = [self._one(depth)]
        while self._has(";"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Joined(True, tuple(parts))

    def _one(self, depth: int) -> Expression:
        if not self._has("("):
            return self._comparison()
        if depth == DEPTH_MAX:
            raise _wrong(f"parentheses are nested too deeply; at most {DEPTH_MAX} are accepted")
        inner = self._any(depth + 1)
        if not self._has(")"):
            raise self._expected("')'")
        return inner

    def _comparison(self) -> Comparison:
        self._comparisons += 1
        if self._comparisons > COMPARISONS_MAX:
            raise _wrong(f"there are too many comparisons; at most {COMPARISONS_MAX} are accepted")
        selector = self._take(_SELECTOR)
        if selector is None:
            raise self._expected("the name of a field")
        operator = self._take(_OPERATOR)
        if operator is None:
            raise self._expected(f"one of {' '.join(OPERATORS)}")
        if operator not in OPERATORS:
            raise _wrong(f"the operator '{operator[:_SHOWN]}' is unknown; known are {' '.join(OPERATORS)}")
        quoted = self._take(_QUOTED)
        if quoted is not None:
            return Comparison(selector, operator, _pieces(quoted[1:-1]))
        bare = self._take(_BARE)
        if bare is None:
            raise self._expected("a value, in quotes where it has blanks or any of ;,()")
        return Comparison(selector, operator, tuple(bare.split("*")))

    def _has(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._skip(self._at + len(mark))
        return True

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        self._skip(self._at)
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._skip(match.end())
        return match[0]

    def _skip(self, start: int) -> None:
        """Move to `start` and past the blanks there."""
        blanks = _BLANKS.match(self._text, start)
        self._at = blanks.end() if blanks else start

    def _expected(self, what: str) -> InvalidRequest:
        rest = self._text[self._at :]
        shown = f"'{rest[:_SHOWN]}{'…' if len(rest) > _SHOWN else ''}'" if rest else "the end"
        return _wrong(f"at character {self._at + 1}, {what} is expected, not {shown}")


def _pieces(quoted: str) -> tuple[str, ...]:
    pieces = [""]
    for each in re.findall(r"\\.|.", quoted, re.DOTALL):
        if each == "*":
            pieces.append("")
        else:
            pieces[-1] += each[-1]
    return tuple(pieces)


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="query")
