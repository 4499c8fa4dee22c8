"""Thousands of callers that wait for tickets at one real intake process."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.longpoll import PATIENT, Callers, Intake, add_tickets, all_wait, change_all, held, intake, warm_up
from publisher.core.ticket import Ticket
from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.patient_intake import WAIT_SECONDS

pytestmark = pytest.mark.long

CALLERS = 5000
RESERVE = 200
"""Number of descriptors that a process needs for itself."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Intake]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Most systems start a program with such a limit. The intake must raise it itself.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[1]), before[1]))
    try:
        with intake(tmp_path, module=PATIENT) as started:
            if before[1] < CALLERS + RESERVE:
                missing(f"a limit of {CALLERS + RESERVE} descriptors a process (it is {before[1]})")
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
            yield started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def waiting(running: Intake, tickets: list[Ticket], number_of_callers: int) -> AsyncIterator[Callers]:
    """Yield when all callers are waiting at the same time, however long they take to arrive."""
    callers = await held(running, tickets, number_of_callers, WAIT_SECONDS)
    try:
        await all_wait(running, callers)
        yield callers
    finally:
        callers.close()


@pytest.mark.real
@pytest.mark.parametrize(("number_of_callers", "count"), [(CALLERS, 1), (1500, 1500)])
def test_all_waiting_callers_are_answered(running: Intake, number_of_callers: int, count: int) -> None:
    """All callers wait for one ticket, or each for its own. `bench.longpoll` measures how fast they are answered."""
    tickets = add_tickets(running.store, count)
    warm_up(running)

    async def wait() -> None:
        async with waiting(running, tickets, number_of_callers) as callers:
            assert [each.answer for each in callers.waiting if each.answer] == []
            # The arrivals needed some threads, but a waiting caller needs none.
            assert running.threads < 60
            descriptors = running.process.num_fds()
            assert descriptors > number_of_callers

            for each in callers.waiting[:10]:
                each.transport.abort()
            change_all(running.store)
            changed = time.perf_counter()
            await asyncio.wait_for(callers.all_answered.wait(), 60 * PATIENCE)
            answered = callers.waiting[10:]
            print(f"the last of {len(answered)} after {max(each.at for each in answered) - changed:.2f} s")
            for number, each in enumerate(callers.waiting):
                assert each.answer.startswith(b"HTTP/1.1 200 OK\r\n") == (number >= 10)
                if number >= 10:
                    assert b'"complete":true' in each.answer
                    assert f'"dbId":{tickets[number % count].id},'.encode() in each.answer
            assert running.threads < 60

    asyncio.run(wait())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_intake_that_stops_answers_its_waiting_callers(running: Intake, number: signal.Signals) -> None:
    """Waiting callers get an answer, not a broken connection."""
    tickets = add_tickets(running.store, 1)
    warm_up(running)

    async def wait() -> None:
        async with waiting(running, tickets, 100) as callers:
            running.process.send_signal(number)
            await asyncio.wait_for(callers.all_answered.wait(), 20 * PATIENCE)
            assert {each.answer[:15] for each in callers.waiting} == {b"HTTP/1.1 200 OK"}
            assert all(b'"message":"Queued"' in each.answer for each in callers.waiting)

    asyncio.run(wait())
    running.process.wait(20 * PATIENCE)
