"""Thousands of callers that wait for tickets at one real intake process."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.longpoll import Intake, add_tickets, at_rest, change_all, held, intake, warm_up

pytestmark = pytest.mark.long

CALLERS = 5000
RESERVE = 200
"""Descriptors, of a process's own."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Intake]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # As most systems start a program: the intake has to ask for more itself.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[1]), before[1]))
    try:
        with intake(tmp_path) as started:
            if before[1] < CALLERS + RESERVE:
                pytest.skip(f"a process may have {before[1]} descriptors only")
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
            yield started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.real
@pytest.mark.parametrize(("number_of_callers", "count"), [(CALLERS, 1), (1500, 1500)])
def test_all_who_wait_are_answered(running: Intake, number_of_callers: int, count: int) -> None:
    """Of one ticket, and of as many tickets as callers. How fast that is, `bench.longpoll` measures."""
    tickets = add_tickets(running.store, count)
    warm_up(running)

    async def wait() -> None:
        callers = await held(running, tickets, number_of_callers)
        await at_rest(running)
        assert [each.answer for each in callers.waiting if each.answer] == []
        # Those that the arrivals needed, and none for each who waits.
        assert running.threads < 60
        descriptors = running.process.num_fds()
        assert descriptors > number_of_callers

        for each in callers.waiting[:10]:
            each.transport.abort()
        change_all(running.store)
        changed = time.perf_counter()
        await asyncio.wait_for(callers.all_answered.wait(), 60)
        answered = callers.waiting[10:]
        print(f"the last of {len(answered)} after {max(each.at for each in answered) - changed:.2f} s")
        for number, each in enumerate(callers.waiting):
            assert each.answer.startswith(b"HTTP/1.1 200 OK\r\n") == (number >= 10)
            if number >= 10:
                assert b'"complete":true' in each.answer
                assert f'"dbId":{tickets[number % count].id},'.encode() in each.answer
        assert running.threads < 60
        callers.close()

    asyncio.run(wait())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_intake_stops_at_once(running: Intake, number: signal.Signals) -> None:
    """And those who wait have an answer, not a broken connection."""
    tickets = add_tickets(running.store, 1)
    warm_up(running)

    async def wait() -> None:
        callers = await held(running, tickets, 100)
        await at_rest(running)
        running.process.send_signal(number)
        await asyncio.wait_for(callers.all_answered.wait(), 20)
        assert {each.answer[:15] for each in callers.waiting} == {b"HTTP/1.1 200 OK"}
        assert all(b'"message":"Queued"' in each.answer for each in callers.waiting)
        callers.close()

    asyncio.run(wait())
    running.process.wait(20)
