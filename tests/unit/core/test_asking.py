"""Functions that ask get their own answers and errors, and what they ask at the same time is answered together."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, ContextVar, copy_context

import pytest

from publisher.core.asking import Asking, alone, ask, together, waits


class Answering:
    """Doubles numbers. Fails for all numbers of a call if it has 100; refuses negative numbers alone."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def double(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.calls.append(list(numbers))
        if 100 in numbers:
            raise OSError("the disk is full")
        return [ValueError(f"{each} is negative") if each < 0 else 2 * each for each in numbers]

    def negate(self, numbers: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(numbers))
        return [-each for each in numbers]


def twice(answering: Answering, number: int) -> Asking[int]:
    doubled = yield from ask(answering.double, number)
    return (yield from ask(answering.double, doubled))


def outcomes(*asking: Asking[int]) -> list[object]:
    return [error or result for result, error in together([(each, copy_context()) for each in asking])]


def test_one_function_is_answered_alone() -> None:
    answering = Answering()
    assert alone(twice(answering, 3)) == 12
    assert answering.calls == [[3], [6]]


def test_questions_of_several_are_answered_by_one_call() -> None:
    answering = Answering()
    assert outcomes(*(twice(answering, each) for each in (1, 2, 3))) == [4, 8, 12]
    assert answering.calls == [[1, 2, 3], [2, 4, 6]]


def test_each_kind_of_question_gets_one_call() -> None:
    answering = Answering()

    def other(number: int) -> Asking[int]:
        return (yield from ask(answering.negate, number))

    def none(number: int) -> Asking[int]:
        yield from ()
        return number

    assert outcomes(other(1), twice(answering, 2), none(3), other(4), twice(answering, 5)) == [-1, 8, 3, -4, 20]
    assert answering.calls == [[1, 4], [2, 5], [4, 10]]


def test_an_error_among_the_answers_is_raised_in_the_one_that_asked() -> None:
    def forgiving(answering: Answering, number: int) -> Asking[int]:
        try:
            return (yield from ask(answering.double, number))
        except ValueError:
            return 0

    answering = Answering()
    one, refused, forgiven = outcomes(twice(answering, 1), twice(answering, -2), forgiving(answering, -3))
    assert (one, forgiven) == (4, 0)
    assert isinstance(refused, ValueError)
    assert str(refused) == "-2 is negative"
    with pytest.raises(ValueError, match="-2 is negative"):
        alone(twice(answering, -2))


def test_each_gets_its_own_copy_if_the_call_fails() -> None:
    answering = Answering()
    failed = outcomes(*(twice(answering, each) for each in (50, 100, 2)))
    assert [str(each) for each in failed] == ["the disk is full"] * 3
    assert len({id(each) for each in failed}) == 3


def test_an_error_of_a_function_is_its_own() -> None:
    def broken() -> Asking[int]:
        yield from ()
        raise KeyError("broken")

    answering = Answering()
    error, result = outcomes(broken(), twice(answering, 1))
    assert isinstance(error, KeyError)
    assert result == 4


def test_each_function_runs_in_its_context() -> None:
    name: ContextVar[str] = ContextVar("name")

    def context(value: str) -> Context:
        made = copy_context()
        made.run(name.set, value)
        return made

    def named() -> Asking[str]:
        before = name.get()
        yield from ask(Answering().double, 1)
        return before + name.get()

    found = together([(named(), context("a")), (named(), context("b"))])
    assert [result for result, _ in found] == ["aa", "bb"]


def test_what_waits_is_announced_before_it_is_called() -> None:
    @waits
    def store(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(f"store {list(numbers)}")
        return numbers

    def look_up(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(f"look up {list(numbers)}")
        return numbers

    def asking(number: int) -> Asking[int]:
        found = yield from ask(look_up, number)
        return (yield from ask(store, found)) if found else 0

    calls: list[str] = []
    together([(asking(each), copy_context()) for each in (0, 1, 2)], lambda: calls.append("waits"))
    assert calls == ["look up [0, 1, 2]", "waits", "store [1, 2]"]
