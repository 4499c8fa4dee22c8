"""Threads share one thread's work: nobody waits for company, nobody is forgotten."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from publisher.core.batches import Abandoned, Batches, TurnTimeout
from tests.patience import PATIENCE

SOON = 30 * PATIENCE


class Work:
    """Doubles numbers; those that are negative are refused. The first batch waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            self.begun.set()
            assert self.may_go_on.wait(SOON)
        if self.error:
            raise self.error
        return [2 * each if each >= 0 else ValueError(f"{each} is negative") for each in items]


@contextmanager
def waiting(work: Work, batches: Batches[int, int], *items: int) -> Iterator[list[Future[int]]]:
    """Let threads wait, one after the other, while another one works on 0. They go on when the block ends."""
    with ThreadPoolExecutor(len(items) + 1) as pool:
        futures = [pool.submit(batches.do, 0, wait_seconds=SOON)]
        assert work.begun.wait(SOON)
        for number, item in enumerate(items, 1):
            futures.append(pool.submit(batches.do, item, wait_seconds=SOON))
            until(batches, number)
        try:
            yield futures
        finally:
            work.may_go_on.set()


def until(batches: Batches[int, int], number: int) -> None:
    """Return when so many items wait."""
    deadline = time.monotonic() + SOON
    while len(batches) != number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def free(work: Work) -> Work:
    work.may_go_on.set()
    return work


def test_a_lone_item_is_worked_on_at_once() -> None:
    work = free(Work())
    batches = Batches(work, at_most=10)
    assert [batches.do(each, wait_seconds=0) for each in (1, 2)] == [2, 4]
    assert work.batches == [[1], [2]]


def test_what_waits_is_the_next_batch_in_its_order() -> None:
    work = Work()
    with waiting(work, Batches(work, at_most=10), 1, 2, 3) as futures:
        pass
    assert [each.result() for each in futures] == [0, 2, 4, 6]
    assert work.batches == [[0], [1, 2, 3]]


def test_a_batch_has_a_maximum() -> None:
    work = Work()
    with waiting(work, Batches(work, at_most=2), 1, 2, 3) as futures:
        pass
    assert [each.result() for each in futures] == [0, 2, 4, 6]
    assert work.batches == [[0], [1, 2], [3]]


def test_a_refused_item_fails_alone() -> None:
    work = Work()
    with waiting(work, Batches(work, at_most=10), 1, -2, 3) as futures:
        pass
    assert [futures[index].result() for index in (0, 1, 3)] == [0, 2, 6]
    with pytest.raises(ValueError, match="-2 is negative"):
        futures[2].result()


def test_an_error_reaches_each_thread_of_its_batch_and_no_other() -> None:
    work = Work()
    batches = Batches(work, at_most=2)
    with waiting(work, batches, 1, 2, 3) as futures:
        work.error = OSError("the disk is full")
    errors = [each.exception() for each in futures]
    assert [str(each) for each in errors] == ["the disk is full"] * 4
    assert len({id(each) for each in errors[1:3]}) == 2, "a traceback belongs to one thread"
    work.error = None
    assert batches.do(5, wait_seconds=0) == 10


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nobody_waits_for_a_leader_that_was_stopped(stop: type[BaseException]) -> None:
    work = Work()
    batches = Batches(work, at_most=2)
    with waiting(work, batches, 1, 2, 3) as futures:
        work.error = stop()
    assert [type(each.exception()) for each in futures] == [stop, stop, Abandoned, stop]
    work.error = None
    assert batches.do(5, wait_seconds=0) == 10


def test_too_few_outcomes_leave_nobody_waiting() -> None:
    batches: Batches[int, int] = Batches(lambda items: [], at_most=2)
    with pytest.raises(Abandoned):
        batches.do(1, wait_seconds=0)


def test_whoever_has_waited_for_too_long_is_left_out() -> None:
    work = Work()
    batches = Batches(work, at_most=10)
    with waiting(work, batches, 1) as futures, pytest.raises(TurnTimeout):
        batches.do(2, wait_seconds=0.01)
    assert [each.result() for each in futures] == [0, 2]
    assert work.batches == [[0], [1]]


def test_an_interrupted_thread_neither_leads_nor_stays() -> None:
    work = Work()
    batches = Batches(work, at_most=10)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(batches, 1)
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batches.do, 0, wait_seconds=SOON)
        assert work.begun.wait(SOON)
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            batches.do(1, wait_seconds=SOON)
        assert len(batches) == 0
        work.may_go_on.set()
    assert first.result() == 0
    assert batches.do(2, wait_seconds=0) == 4
    assert work.batches == [[0], [2]]


def test_many_threads_get_their_own_results() -> None:
    batches: Batches[int, int] = Batches(lambda items: [2 * each for each in items], at_most=3)
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(batches.do, each, wait_seconds=SOON) for each in range(2000)]
    assert [each.result() for each in futures] == [2 * each for each in range(2000)]
    assert len(batches) == 0
