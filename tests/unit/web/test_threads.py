"""Threads make calls for event loops, in a bounded number, and refuse calls that would wait too long."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest
from sqlalchemy.exc import TimeoutError as StoreTimeout

from publisher.web.threads import Threads
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
        names = {await one.run(lambda: threading.current_thread().name) for _ in range(5)}
        return len(seen), len(names)

    started, used = asyncio.run(run())
    assert started == 3
    assert used <= 2


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
