"""The order in which passwords are hashed, without HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from publisher.core.errors import TooMany
from publisher.web.password_hashing import Hashing
from tests.patience import PATIENCE
from tests.stack import until


class Attempts:
    """Callers that wait for their turn, and what was hashed, in order."""

    def __init__(self, hashing: Hashing, pool: ThreadPoolExecutor) -> None:
        self._hashing = hashing
        self._pool = pool
        self.opened = threading.Event()
        self.begun: list[str] = []

    def ask(self, network: str, name: str = "", *, right: bool = False) -> Future[bool]:
        def verify() -> bool:
            self.begun.append(name or network)
            assert self.opened.wait(60 * PATIENCE)
            return right

        asked = self._pool.submit(self._hashing.verify, network, verify)
        until(lambda: asked.done() or (self._here(verify) and bool(self.begun)), 60)
        return asked

    def _here(self, verify: Callable[[], bool]) -> bool:
        with self._hashing._lock:
            return any(each.verify is verify for each in (*self._hashing._waiting, *self._hashing._running))


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    with ThreadPoolExecutor(40) as pool:
        made = Attempts(Hashing(threads=1, waiting_max=3), pool)
        yield made
        made.opened.set()


def refused(asked: Future[bool]) -> bool:
    return isinstance(asked.exception(60), TooMany)


def test_a_caller_is_refused_at_once_if_there_is_no_room(attempts: Attempts) -> None:
    inside = [attempts.ask("a", str(number)) for number in range(4)]
    assert refused(attempts.ask("a"))
    attempts.opened.set()
    assert [each.result(60) for each in inside] == [False] * 4
    assert attempts.begun == ["0", "1", "2", "3"]


def test_another_network_takes_the_last_caller_s_place(attempts: Attempts) -> None:
    inside = [attempts.ask("a", str(number)) for number in range(4)]
    other = attempts.ask("b")
    assert refused(inside[3])
    attempts.opened.set()
    assert [each.result(60) for each in (other, *inside[:3])] == [False] * 4
    # The new network also gets the next turn.
    assert attempts.begun == ["0", "b", "1", "2"]


@pytest.mark.long
def test_networks_without_failures_come_first(attempts: Attempts) -> None:
    attempts.opened.set()
    for _ in range(3):
        assert attempts.ask("guesser").result(60) is False
    attempts.opened.clear()
    attempts.begun.clear()
    attempts.ask("first")
    for name in ("guesser", "b", "c"):
        attempts.ask(name)
    attempts.opened.set()
    until(lambda: len(attempts.begun) == 4, 60)
    assert attempts.begun == ["first", "b", "c", "guesser"]


@pytest.mark.long
def test_a_network_with_failures_does_not_displace_one_without(attempts: Attempts) -> None:
    attempts.opened.set()
    for _ in range(3):
        attempts.ask("guesser").result(60)
    attempts.opened.clear()
    inside = [attempts.ask(name) for name in ("first", "b", "c", "d")]
    assert refused(attempts.ask("guesser"))
    attempts.opened.set()
    assert [each.result(60) for each in inside] == [False] * 4


def test_an_error_reaches_its_caller(attempts: Attempts) -> None:
    attempts.opened.set()

    def fail() -> bool:
        raise RuntimeError("no memory")

    hashing = attempts._hashing
    with pytest.raises(RuntimeError, match="no memory"):
        hashing.verify("a", fail)
    assert hashing.verify("a", lambda: True) is True


def test_idle_threads_end(attempts: Attempts) -> None:
    attempts.opened.set()
    assert attempts.ask("a", right=True).result(60) is True
    until(lambda: not [each for each in threading.enumerate() if each.name == "hashing"], 60)
