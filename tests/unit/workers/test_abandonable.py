"""A call that is waited for as long as it is wanted, and no longer."""

import threading

import pytest

from publisher.core.errors import Cancelled
from tests.patience import PATIENCE
from workers import abandonable as module
from workers.abandonable import aside


def never() -> None:
    """Nothing stops it."""


def fail_at_once() -> None:
    raise Cancelled


def test_its_result_and_its_error_are_the_callers() -> None:
    assert aside(lambda: 7, check=never, discard=print) == 7
    with pytest.raises(TimeoutError, match="its own"):
        aside(lambda: (_ for _ in ()).throw(TimeoutError("its own")), check=never, discard=print)


def test_one_that_is_not_wanted_any_more_is_left_and_its_result_discarded() -> None:
    go_on, discarded = threading.Event(), threading.Event()

    def slow() -> str:
        assert go_on.wait(20 * PATIENCE)
        return "too late"

    results: list[str] = []

    def discard(result: str) -> None:
        results.append(result)
        discarded.set()

    with pytest.raises(Cancelled):
        aside(slow, check=fail_at_once, discard=discard)
    assert results == []
    go_on.set()
    assert discarded.wait(20 * PATIENCE)
    assert results == ["too late"]


def test_an_error_that_comes_too_late_is_nobodys() -> None:
    go_on = threading.Event()

    def slow() -> None:
        assert go_on.wait(20 * PATIENCE)
        raise KeyError

    with pytest.raises(Cancelled):
        aside(slow, check=fail_at_once, discard=lambda _: pytest.fail("there is no result"))
    go_on.set()


def test_no_more_are_left_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_left", threading.BoundedSemaphore(1))
    go_on, first_ended = threading.Event(), threading.Event()
    ended: list[str] = []

    def slow(name: str) -> str:
        assert go_on.wait(20 * PATIENCE)
        ended.append(name)
        return name

    with pytest.raises(Cancelled):
        aside(lambda: slow("left"), check=fail_at_once, discard=lambda _: first_ended.set())
    assert ended == []

    def check() -> None:
        threading.Timer(0.2, go_on.set).start()
        raise Cancelled

    with pytest.raises(Cancelled):
        aside(lambda: slow("waited for"), check=check, discard=never_mind)
    assert "waited for" in ended
    assert first_ended.wait(20 * PATIENCE)
    with pytest.raises(Cancelled):  # there is room again
        aside(lambda: threading.Event().wait(0.3), check=fail_at_once, discard=never_mind)


def never_mind(result: object) -> None:
    """Nothing is held by it."""
