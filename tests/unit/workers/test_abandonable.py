"""`aside` waits for a call in a thread, and abandons it when it is no longer wanted."""

import threading

import pytest

from publisher.core.errors import Cancelled
from tests.patience import PATIENCE
from workers import abandonable as module
from workers.abandonable import aside


def never() -> None:
    """A check that never stops a call."""


def fail_at_once() -> None:
    raise Cancelled


def test_caller_gets_the_result_or_the_error() -> None:
    assert aside(lambda: 7, check=never, discard=print) == 7
    with pytest.raises(TimeoutError, match="its own"):
        aside(lambda: (_ for _ in ()).throw(TimeoutError("its own")), check=never, discard=print)


def test_result_of_an_abandoned_call_is_discarded() -> None:
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


def test_error_of_an_abandoned_call_is_ignored() -> None:
    go_on = threading.Event()

    def slow() -> None:
        assert go_on.wait(20 * PATIENCE)
        raise KeyError

    with pytest.raises(Cancelled):
        aside(slow, check=fail_at_once, discard=lambda _: pytest.fail("there is no result"))
    go_on.set()


@pytest.mark.long
def test_number_of_abandoned_calls_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(Cancelled):  # another call may be abandoned again
        aside(lambda: threading.Event().wait(0.3), check=fail_at_once, discard=never_mind)


def never_mind(result: object) -> None:
    """Discard a result that holds no resource."""
