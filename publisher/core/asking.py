"""Functions that ask questions, so that the questions of several requests are answered together.

    def publish(...) -> Asking[Ticket]:
        basis = yield from ask(store.new_tickets.bases, wanted)
        ...

`ask` names a function that answers any number of such questions at once, in one statement or one transaction.
`together` runs several functions that ask. Whenever all of them have asked, each function that answers is called once.
`alone` runs a single one.

A function that answers and waits for the disk is marked with `waits`. Meanwhile, the next requests can be prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextvars import Context
from copy import copy
from functools import partial
from typing import Any, TypeVar, cast

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_T = TypeVar("_T")
_Marked = TypeVar("_Marked", bound=Callable[..., Any])

AnswerAll = Callable[[Sequence[_Item]], Sequence[_Answer | BaseException]]
"""Returns the answer to each item. An exception among the answers is raised in the function that has asked."""
Asking = Generator[tuple[AnswerAll[Any, Any], Any], Any, _T]
"""The return type of a function that asks, and in the end returns a `_T`."""
Outcome = tuple[Any, BaseException | None]
"""The result of a function, or the exception that it raised."""
_WAITS = "publisher_waits"


def ask(answer_all: AnswerAll[_Item, _Answer], item: _Item) -> Asking[_Answer]:
    """Return the answer to a question. Raises what `answer_all` raises, or has among its answers."""
    return cast(_Answer, (yield answer_all, item))


def waits(answer_all: _Marked) -> _Marked:
    """Mark a function that answers as one that waits for the disk."""
    setattr(answer_all, _WAITS, True)
    return answer_all


def alone(asking: Asking[_T]) -> _T:
    """Run a function that asks, and return what it returns."""
    answered: Callable[[], Any] = partial(next, asking)
    while True:
        try:
            answer_all, item = answered()
        except StopIteration as end:
            return cast(_T, end.value)
        answered = _resume(asking, _answers(answer_all, [item])[0])


def together(
    asking: Sequence[tuple[Asking[Any], Context]], before_waiting: Callable[[], None] = lambda: None
) -> list[Outcome]:
    """Run functions that ask, each in its context, and return their outcomes.

    `before_waiting` is called before a function that is marked with `waits`.
    """
    outcomes: list[Outcome] = [(None, None)] * len(asking)
    going_on: list[tuple[int, Callable[[], Any]]] = [(at, partial(next, each)) for at, (each, _) in enumerate(asking)]
    while going_on:
        asked: dict[AnswerAll[Any, Any], list[tuple[int, Any]]] = {}
        for at, answered in going_on:
            try:
                answer_all, item = asking[at][1].run(answered)
            except StopIteration as end:
                outcomes[at] = end.value, None
            except BaseException as error:
                outcomes[at] = None, error
            else:
                asked.setdefault(answer_all, []).append((at, item))
        if any(hasattr(answer_all, _WAITS) for answer_all in asked):
            before_waiting()
        going_on = [
            (at, _resume(asking[at][0], answer))
            for answer_all, questions in asked.items()
            for (at, _), answer in zip(questions, _answers(answer_all, [item for _, item in questions]), strict=True)
        ]
    return outcomes


def _answers(answer_all: AnswerAll[Any, Any], items: Sequence[Any]) -> Sequence[Any]:
    try:
        return answer_all(items)
    except Exception as error:
        # Copies, because each function that has asked adds its traceback.
        return [error] if len(items) == 1 else [copy(error) for _ in items]


def _resume(asking: Asking[Any], answer: object) -> Callable[[], Any]:
    return partial(asking.throw if isinstance(answer, BaseException) else asking.send, answer)
