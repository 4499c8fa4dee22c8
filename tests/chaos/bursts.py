"""Bursts: many callers publish at the same moment through one intake, so that it commits their tickets in groups.

A fault can kill the intake while some of these requests have no answer.
"""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from publisher.core.ticket import Ticket
from tests.chaos.callers import LOST, Caller, Documents, Door, Heard, Order
from tests.chaos.service import Service
from tests.patience import PATIENCE
from tests.stack import PASSWORD, Answer, Stack

EVERY_SECONDS = 25.0
CALLERS_LEAST, CALLERS_MOST = 16, 20
_GATHER_SECONDS = 10.0 * PATIENCE
_STEP_SECONDS = 0.001
_LEFT = 2
"""Number of unanswered requests at which a kill does not wait any longer."""


@dataclass(frozen=True)
class Wave:
    """The plan of one burst."""

    at: float
    """Seconds since the callers began."""
    door: int
    """The intake that gets the first request of every caller."""
    orders: Sequence[Order]


def waves(rng: random.Random, *, seconds: float, image_id: int, prefix: str) -> list[Wave]:
    """Of three bursts, one is a lineage, and the callers of one cancel their tickets at once, which saves uploads."""
    count = max(1, round(seconds / EVERY_SECONDS))
    planned = []
    for number in range(count):
        name = f"{prefix}-burst{number}"
        lineage = name if number % 3 == 0 else None
        cancel_after = 0.0 if number % 3 == 1 else None
        orders = [
            Order(
                0.0,
                f"{name}-{each:02d}",
                image_id,
                cancel_after,
                repeated=rng.random() < 0.15,
                lineage=lineage,
                stored_account=lineage is not None,
            )
            for each in range(rng.randint(CALLERS_LEAST, CALLERS_MOST))
        ]
        planned.append(Wave((number + rng.uniform(0.2, 0.9)) * seconds / count, rng.randrange(1000), orders))
    return planned


@dataclass(frozen=True)
class Kill:
    """A SIGKILL of the intake in the middle of a burst."""

    at: float
    """When the intake was dead, in seconds since the epoch. No request is repeated before."""
    under_way: frozenset[str]
    """The orders whose first request was sent and not answered when SIGKILL was sent."""


class Burst:
    """The first requests of a burst's callers: which are sent, answered, or lost."""

    def __init__(self, number: int, wave: Wave, door: int) -> None:
        self.number = number
        self.wave = wave
        self.door = door
        self.began = time.monotonic()
        self.kill: Kill | None = None
        self._together = threading.Barrier(len(wave.orders))
        self._sent: set[str] = set()
        self._answered: set[str] = set()
        self._lost: set[str] = set()
        self._changed = threading.Condition()

    @property
    def unanswered(self) -> frozenset[str]:
        """The orders whose first request the kill has left without an answer."""
        return self.kill.under_way & self._lost if self.kill else frozenset()

    def gather(self) -> None:
        """Wait until all callers of the burst are ready to send."""
        try:
            self._together.wait(_GATHER_SECONDS)
        except threading.BrokenBarrierError:
            """One of them is late. The others do not wait any longer."""

    def note(self, *, sent: str = "", answered: str = "", lost: str = "") -> None:
        with self._changed:
            self._sent |= {sent} - {""}
            self._answered |= {answered} - {""}
            self._lost |= {lost} - {""}
            self._changed.notify_all()

    def await_middle(self, *, sent: int, seconds: float, until: Callable[[], bool] = lambda: False) -> frozenset[str]:
        """Wait until so many requests are sent, then until something is so: for some seconds, or until few are left.

        Return the orders whose requests are sent and not answered: none if they cannot be sent.
        """
        count = len(self.wave.orders)

        def left() -> int:
            return count - len(self._answered | self._lost)

        with self._changed:
            self._changed.wait_for(lambda: len(self._sent) >= sent or not left(), timeout=_GATHER_SECONDS)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not until():
            with self._changed:
                if self._changed.wait_for(lambda: left() <= _LEFT, timeout=_STEP_SECONDS):
                    break
        with self._changed:
            return frozenset(self._sent - self._answered - self._lost)


@dataclass(frozen=True)
class _FirstRequest:
    """Sends the first request of one caller of a burst. The caller is connected before, so that all send at once."""

    door: Stack
    burst: Burst
    name: str

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.door.settings.intake_port, timeout=30 * PATIENCE)
        basic = b64encode(f"root:{PASSWORD}".encode()).decode()
        head = {"Accept": "application/json", "Content-Type": content_type, "Authorization": f"Basic {basic}"}
        try:
            try:
                connection.connect()
            finally:
                self.burst.gather()
            connection.request(method, f"/api/{path}", body, head | dict(headers or {}))
            self.burst.note(sent=self.name)
            answer = connection.getresponse()
            whole = Answer(answer.status, answer.headers, answer.read())
        except LOST:
            self.burst.note(lost=self.name)
            raise
        finally:
            connection.close()
        self.burst.note(answered=self.name)
        return whole


class Bursts(threading.Thread):
    """Starts the bursts when they are due."""

    def __init__(
        self,
        planned: Sequence[Wave],
        service: Service,
        requests: Documents,
        heard: Heard,
        *,
        give_up: float,
    ) -> None:
        super().__init__(name="bursts", daemon=True)
        self.begun: list[Burst] = []
        self._planned = planned
        self._service = service
        self._requests = requests
        self._heard = heard
        self._give_up = give_up
        self._callers: list[Caller] = []
        self._over = False
        self._changed = threading.Condition()

    def run(self) -> None:
        began = time.monotonic()
        try:
            for number, wave in enumerate(self._planned):
                time.sleep(max(0.0, began + wave.at - time.monotonic()))
                self._begin(Burst(number, wave, self._door(wave)))
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def next(self) -> Burst | None:
        """Wait until the next burst begins, and return it; None if none follows."""
        with self._changed:
            before = len(self.begun)
            self._changed.wait_for(lambda: len(self.begun) > before or self._over)
            return self.begun[-1] if len(self.begun) > before else None

    def await_callers(self) -> None:
        """Wait until the callers of all bursts have done what they wanted."""
        self.join()
        for caller in self._callers:
            caller.join()

    def _door(self, wave: Wave) -> int:
        """Return which intake gets the burst: the one that was planned, or else one that is up."""
        intakes = self._service.intakes
        order = [(wave.door + step) % len(intakes) for step in range(len(intakes))]
        return next((each for each in order if intakes[each].up.is_set()), order[0])

    def _begin(self, burst: Burst) -> None:
        with self._changed:
            self.begun.append(burst)
            self._changed.notify_all()
        doors = self._service.doors
        now = time.monotonic()
        for order in burst.wave.orders:
            first: Door = _FirstRequest(doors[burst.door], burst, order.name)
            own = itertools.chain([first], itertools.cycle(doors))
            self._callers.append(
                caller := Caller([order], own, self._requests, self._heard, began=now, give_up=self._give_up)
            )
            caller.start()


# What has become of the bursts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Struck:
    """A burst that an intake's SIGKILL fell into."""

    number: int
    requests: int
    unanswered: int
    committed: int
    """Number of unanswered requests whose tickets the intake had committed."""
    groups: Sequence[int] = field(default_factory=list)
    """How many tickets were committed in each transaction with at least one of them."""

    def __str__(self) -> str:
        groups = f", in groups of {', '.join(str(each) for each in self.groups)}" if self.groups else ""
        return (
            f"burst {self.number}: of {self.requests} requests, {self.unanswered} were unanswered;"
            f" the tickets of {self.committed} were committed{groups}"
        )


def group_sizes(tickets: Iterable[Ticket]) -> Counter[float]:
    """Return how many tickets each transaction has created, by its time.

    The tickets of one transaction have the same `created`. It is read once, to the microsecond, from the database's
    clock.
    """
    return Counter(ticket.created for ticket in tickets)


def struck(bursts: Iterable[Burst], tickets: Sequence[Ticket]) -> list[Struck]:
    """Return the bursts in which a kill of the intake has left requests without an answer."""
    sizes = group_sizes(tickets)
    created = {ticket.name: ticket.created for ticket in tickets}
    found = []
    for burst in bursts:
        if burst.kill and (unanswered := burst.unanswered):
            # A ticket that was created later comes from the repeated request.
            times = [created[name] for name in unanswered if created.get(name, burst.kill.at) < burst.kill.at]
            groups = sorted((sizes[time] for time in set(times)), reverse=True)
            found.append(Struck(burst.number, len(burst.wave.orders), len(unanswered), len(times), groups))
    return found


def group_words(tickets: Iterable[Ticket]) -> str:
    """Say how many tickets were committed alone, and how large the groups were."""
    by_size = Counter(group_sizes(tickets).values())
    alone = by_size.pop(1, 0)
    several = ", ".join(f"{count} of {size}" for size, count in sorted(by_size.items()))
    return f"tickets committed alone: {alone}; groups committed in one transaction: {several or 'none'}"
