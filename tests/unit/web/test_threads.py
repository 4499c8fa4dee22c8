"""Threads make calls for event loops, in a bounded number, and refuse calls that would wait too long."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import TimeoutError as StoreTimeout

from publisher.web.threads import Threads, Together
from tests.patience import PATIENCE


def test_threads_return_results_and_errors_in_the_context_of_the_caller() -> None:
    name = contextvars.ContextVar("name", default="none")

    def fail() -> None:
        raise StopIteration("a mistake")

    async def run() -> str:
        threads = Threads("test", 2)
        name.set("caller")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await threads.run(fail)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        return await threads.run(name.get)

    assert asyncio.run(run()) == "caller"


def test_no_more_threads_run_than_allowed_and_idle_ones_are_used_again() -> None:
    async def run() -> tuple[int, int]:
        threads = Threads("test", 3)
        running, most, seen = 0, 0, set()

        def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            seen.add(threading.current_thread().name)
            time.sleep(0.01)
            running -= 1

        await asyncio.gather(*[threads.run(work) for _ in range(20)])
        assert most <= 3
        one = Threads("one", 9)
        names = {await one.run(lambda: threading.current_thread().name) for _ in range(100)}
        return len(seen), len(names)

    started, used = asyncio.run(run())
    assert started == 3
    assert used == 1


def test_too_many_or_too_long_waiting_calls_are_refused_and_not_made() -> None:
    free = threading.Event()
    made: list[int] = []

    async def run() -> None:
        threads = Threads("test", 1, waiting_max=2, wait_seconds=0.05)
        busy = asyncio.create_task(threads.run(free.wait, 60 * PATIENCE))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(threads.run(made.append, number)) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(StoreTimeout, match="too many"):
            await threads.run(made.append, 2)
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in refused] == [StoreTimeout, StoreTimeout]
        free.set()
        assert await busy
        await threads.run(made.append, 3)

    asyncio.run(run())
    assert made == [3]


def test_threads_are_added_while_the_usual_ones_wait_and_end_afterwards() -> None:
    free = threading.Event()
    usual, most = 2, 5

    async def run() -> None:
        threads = Threads("elastic", usual, most)
        busy = [asyncio.create_task(threads.run(free.wait, 60 * PATIENCE)) for _ in range(most - 1)]
        assert await threads.run(len, "abc") == 3
        assert len(alive()) <= most
        free.set()
        assert all(await asyncio.gather(*busy))
        deadline = time.monotonic() + 60 * PATIENCE
        while len(alive()) > usual:
            assert time.monotonic() < deadline
            await threads.run(time.sleep, 0.001)

    def alive() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("elastic ")]

    asyncio.run(run())


# Working together -----------------------------------------------


class Work:
    """Doubles numbers when it may. Refuses odd ones, and fails as a whole if one is 100."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may_go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[tuple[int, BaseException | None]]:
        self.groups.append(list(items))
        assert self.may_go_on.wait(20 * PATIENCE)
        if 100 in items:
            raise SystemExit
        return [(2 * each, ValueError(f"{each} is odd") if each % 2 else None) for each in items]


async def has_begun(work: Work) -> None:
    while not work.groups:
        await asyncio.sleep(0.001)


async def outcome(thread: Together[int], item: int) -> object:
    try:
        return await thread.do(item)
    except Exception as error:
        return error


async def together(thread: Together[int], work: Work, *items: int) -> list[object]:
    """Have 0 worked on and, while that takes its time, let the others come. Return the outcomes of these."""
    first = asyncio.create_task(thread.do(0))
    await has_begun(work)
    others = [asyncio.create_task(outcome(thread, each)) for each in items]
    while len(thread) < len(items):
        await asyncio.sleep(0.001)
    work.may_go_on.set()
    assert await first == 0
    return await asyncio.gather(*others)


def test_what_comes_meanwhile_is_worked_on_together() -> None:
    work = Work()
    assert asyncio.run(together(Together("test", work), work, 2, 4, 6)) == [4, 8, 12]
    assert work.groups == [[0], [2, 4, 6]]


def test_no_more_are_worked_on_together_than_allowed() -> None:
    work = Work()
    assert asyncio.run(together(Together("test", work, at_most=2), work, 2, 4, 6)) == [4, 8, 12]
    assert work.groups == [[0], [2, 4], [6]]


def test_an_error_is_raised_for_its_own_item() -> None:
    work = Work()
    two, three = asyncio.run(together(Together("test", work), work, 2, 3))
    assert two == 4
    assert str(three) == "3 is odd"


def test_nobody_is_left_waiting_if_the_work_is_stopped() -> None:
    async def run() -> object:
        stopped = await together(thread, work, 2, 100)
        assert [type(each) for each in stopped] == [RuntimeError] * 2
        return await thread.do(4)

    work = Work()
    thread = Together("test", work)
    assert asyncio.run(run()) == 8, "and the thread goes on"


def test_items_of_several_event_loops_get_their_results() -> None:
    work = Work()
    work.may_go_on.set()
    thread = Together("test", work)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda each: asyncio.run(thread.do(each)), range(0, 80, 2))) == list(range(0, 160, 4))


def test_items_beyond_the_number_that_may_wait_are_refused_at_once() -> None:
    async def run() -> None:
        first = asyncio.create_task(thread.do(0))
        await has_begun(work)
        waiting = asyncio.create_task(thread.do(2))
        while not len(thread):
            await asyncio.sleep(0.001)
        with pytest.raises(StoreTimeout, match="too many"):
            await thread.do(4)
        work.may_go_on.set()
        assert [await first, await waiting] == [0, 4]

    work = Work()
    thread = Together("test", work, waiting_max=1)
    asyncio.run(run())
    assert work.groups == [[0], [2]]


def test_an_item_that_has_waited_too_long_is_refused_and_never_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        first = asyncio.create_task(thread.do(0))
        await has_begun(work)
        with monkeypatch.context() as patch:
            patch.setattr(thread, "_wait_seconds", 0.05)
            with pytest.raises(StoreTimeout, match="too long"):
                await thread.do(2)
        work.may_go_on.set()
        assert await first == 0
        assert await thread.do(4) == 8

    work = Work()
    thread = Together("test", work, wait_seconds=60.0 * PATIENCE)
    asyncio.run(run())
    assert work.groups == [[0], [4]]


def test_the_next_items_are_begun_while_the_first_ones_wait() -> None:
    def work(items: Sequence[int], before_waiting: Callable[[], None]) -> list[tuple[int, None]]:
        began.append(list(items))
        if 0 in items:
            before_waiting()
            before_waiting()
            assert others_have_begun.wait(20 * PATIENCE)
        else:
            others_have_begun.set()
        return [(each, None) for each in items]

    async def run() -> list[int]:
        first = asyncio.create_task(thread.do(0))
        while not began:
            await asyncio.sleep(0.001)
        return [await thread.do(1), await first]

    began: list[list[int]] = []
    others_have_begun = threading.Event()
    thread: Together[int] = Together("test", work, overlaps=True)
    assert asyncio.run(run()) == [1, 0]
    assert began == [[0], [1]]


def test_no_items_are_begun_while_the_first_ones_do_not_wait() -> None:
    work = Work()

    def never_waits(items: Sequence[int], before_waiting: Callable[[], None]) -> list[tuple[int, BaseException | None]]:
        return work(items)

    assert asyncio.run(together(Together("test", never_waits, overlaps=True), work, 2, 4, 6)) == [4, 8, 12]
    assert work.groups == [[0], [2, 4, 6]]


def test_a_thread_that_was_stopped_lets_the_next_one_begin() -> None:
    def work(items: Sequence[int], before_waiting: Callable[[], None]) -> list[tuple[int, None]]:
        if 0 in items:
            raise SystemExit
        return [(each, None) for each in items]

    async def run() -> list[object]:
        return [type(await outcome(thread, 0)), await thread.do(1), type(await outcome(thread, 0)), await thread.do(2)]

    thread: Together[int] = Together("test", work, overlaps=True)
    assert asyncio.run(run()) == [RuntimeError, 1, RuntimeError, 2]
