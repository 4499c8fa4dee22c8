"""Good callers repeat a request whose answer was lost, and never publish an image twice by that.

They sleep until their next action is due, and before they repeat a request, as clients do.
"""

from __future__ import annotations

import heapq
import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol

from tests.stack import Answer

APPLIANCE = "users/root/appliances/4"
KEEP = 2
"""How many images of a lineage stay published."""
_LINEAGES = 3
_EXPIRES_SECONDS = 8.0, 25.0
_BROKEN_EVERY = 20
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_RETRY_AFTER_LONGEST_SECONDS = 2.0
LOST = (OSError, http.client.HTTPException)


class Door(Protocol):
    """What sends requests to an intake."""

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = ...,
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


@dataclass(frozen=True)
class Order:
    """A plan of a caller: publish an image, perhaps repeat that with the same key, and perhaps take it back."""

    at: float
    """Seconds since the callers began."""
    name: str
    image_id: int
    cancel_after: float | None = None
    repeated: bool = False
    withdrawal: Withdrawal | None = None
    lineage: str | None = None
    expires: datetime | None = None
    stored_account: bool = False

    @property
    def elements(self) -> dict[str, Any]:
        """What its publish request says about the end of its image, and about older ones."""
        found: dict[str, Any] = {}
        if self.lineage:
            found |= {"lineage": self.lineage, "older": "withdraw", "keep": KEEP}
        if self.expires:
            found["expires"] = self.expires.isoformat()
        return found


@dataclass(frozen=True)
class Withdrawal:
    after: float
    """Seconds since the ticket was accepted or, if `once_published`, since its caller saw that it was published."""
    once_published: bool
    doubled: bool


def orders(
    rng: random.Random,
    *,
    seconds: float,
    count: int,
    image_ids: Sequence[int],
    broken_id: int,
    prefix: str,
    began: datetime,
) -> list[Order]:
    """`image_ids` are of ascending sizes; small ones are published more often. Every twentieth is `broken_id`.

    Of the others, a fifth are withdrawn, a fifth belong to a lineage, and a tenth expire. `began` is now.
    """
    weights = [len(image_ids) - place for place in range(len(image_ids))]

    def order(number: int) -> Order:
        at, name = rng.uniform(0, seconds), f"{prefix}-{number:04d}"
        image_id, repeated = rng.choices(image_ids, weights)[0], rng.random() < 0.15
        plain = Order(at, name, image_id, repeated=repeated)
        cancel_after = rng.uniform(0, 6) if rng.random() < 0.25 else None
        if number % _BROKEN_EVERY == 0:
            return replace(plain, image_id=broken_id, cancel_after=cancel_after)
        match rng.choices(("plain", "withdrawn", "lineage", "expires"), (5, 2, 2, 1))[0]:
            case "withdrawn":
                withdrawal = Withdrawal(rng.uniform(0, 4), rng.random() < 0.5, doubled=rng.random() < 0.3)
                return replace(plain, withdrawal=withdrawal, stored_account=rng.random() < 0.5)
            case "lineage":
                # Of the two smallest images, so that its publications follow each other quickly.
                lineage = f"{prefix}-line{rng.randrange(_LINEAGES)}"
                return replace(plain, image_id=rng.choice(image_ids[:2]), lineage=lineage, stored_account=True)
            case "expires":
                expires = began + timedelta(seconds=at + rng.uniform(*_EXPIRES_SECONDS))
                return replace(plain, expires=expires, stored_account=True)
            case _:
                return replace(plain, cancel_after=cancel_after)

    return sorted((order(number) for number in range(count)), key=lambda each: each.at)


@dataclass
class Heard:
    """The answers to the callers, which share this record."""

    promised: dict[int, str] = field(default_factory=dict)
    """The tickets whose 201 a caller saw, and the URIs of their statuses."""
    cancels: int = 0
    to_be_cancelled: set[int] = field(default_factory=set)
    """The tickets that a caller has asked to cancel, whatever the answer was."""
    withdrawals: int = 0
    to_be_withdrawn: set[int] = field(default_factory=set)
    """The tickets that a caller has asked to withdraw, whatever the answer was."""
    expired: set[str] = field(default_factory=set)
    """Orders whose image would have expired before a request got an answer."""
    repeats: int = 0
    answers_lost: int = 0
    refused: int = 0
    """Number of answers that say "later"."""
    wrong: list[str] = field(default_factory=list)
    """Answers that no good caller should ever get."""
    unheard: list[str] = field(default_factory=list)
    """Orders that had no answer until the end."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Documents(Protocol):
    def publish(self, order: Order) -> dict[str, Any]: ...

    def withdraw(self, order: Order) -> dict[str, Any] | None: ...


class Caller(threading.Thread):
    def __init__(
        self,
        own: Sequence[Order],
        doors: Iterator[Door],
        requests: Documents,
        heard: Heard,
        *,
        began: float,
        give_up: float,
    ) -> None:
        """Each request goes to the next of the `doors`. `began` and `give_up` are times of the monotonic clock."""
        super().__init__(name=f"caller of {own[0].name}" if own else "caller", daemon=True)
        self._doors = doors
        self._requests = requests
        self._heard = heard
        self._began, self._give_up = began, give_up
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        for order in own:
            self._plan(began + order.at, lambda order=order: self._publish(order))  # type: ignore[misc]

    def run(self) -> None:
        while self._agenda:
            at, _, act = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at - time.monotonic()))
            act()

    def _plan(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), act))

    def _publish(self, order: Order) -> None:
        ticket = self._posted(order)
        if ticket is None:
            with self._heard.lock:
                if order.name not in self._heard.expired:
                    self._heard.unheard.append(order.name)
            return
        self._promise(ticket)
        if order.repeated:
            again = self._posted(order)
            with self._heard.lock:
                self._heard.repeats += 1
                if again and again["dbId"] != ticket["dbId"]:
                    self._heard.wrong.append(f"{order.name}: {ticket['dbId']}, and {again['dbId']} with the same key")
        if order.cancel_after is not None:
            id, uri = ticket["dbId"], ticket["uri"]
            self._plan(time.monotonic() + order.cancel_after, lambda: self._cancel(id, uri))
        if order.withdrawal and order.withdrawal.once_published:
            self._plan(time.monotonic(), lambda: self._withdraw_once_published(order, ticket))
        elif order.withdrawal:
            self._plan(time.monotonic() + order.withdrawal.after, lambda: self._withdraw(order, ticket))

    def _promise(self, ticket: dict[str, Any]) -> None:
        with self._heard.lock:
            self._heard.promised[ticket["dbId"]] = ticket["statusUri"]

    def _posted(self, order: Order) -> dict[str, Any] | None:
        """Post the order. Return its ticket, or None if there was no answer."""
        body = json.dumps(self._requests.publish(order)).encode()
        headers = {"Idempotency-Key": order.name}
        while time.monotonic() < self._give_up:
            answer = self._ask("POST", f"{APPLIANCE}/pimages", body, headers)
            if answer is not None and answer.status < 300:
                posted: dict[str, Any] = answer.json
                return posted
            if answer is not None and not _is_passing(answer):
                with self._heard.lock:
                    if order.expires and b"expires" in answer.body and b"in the past" in answer.body:
                        self._heard.expired.add(order.name)
                    else:
                        self._heard.wrong.append(f"{order.name}: {answer.status} {answer.body[:300]!r}")
                return None
        return None

    def _cancel(self, id: int, uri: str) -> None:
        with self._heard.lock:
            self._heard.to_be_cancelled.add(id)
        while time.monotonic() < self._give_up:
            answer = self._ask("DELETE", f"{uri}/cancel")
            if answer is not None and answer.status in (204, 409):  # 409: it has ended already
                with self._heard.lock:
                    self._heard.cancels += 1
                return
            if answer is not None and not _is_passing(answer):
                with self._heard.lock:
                    self._heard.wrong.append(f"cancel of {uri}: {answer.status} {answer.body[:300]!r}")
                return

    def _withdraw_once_published(self, order: Order, ticket: dict[str, Any]) -> None:
        """Withdraw the image if it is published. Else look again in a while, unless it has ended otherwise."""
        answer = self._ask("GET", ticket["statusUri"])
        status = answer.json if answer is not None and answer.status == 200 else {}
        if status.get("complete"):
            assert order.withdrawal
            self._plan(time.monotonic() + order.withdrawal.after, lambda: self._withdraw(order, ticket))
        elif not status.get("error") and time.monotonic() < self._give_up:
            self._plan(time.monotonic() + _LOOK_SECONDS, lambda: self._withdraw_once_published(order, ticket))

    def _withdraw(self, order: Order, ticket: dict[str, Any]) -> None:
        with self._heard.lock:
            self._heard.to_be_withdrawn.add(ticket["dbId"])
        account = self._requests.withdraw(order)
        body = json.dumps(account).encode() if account else None
        wanted = 2 if order.withdrawal and order.withdrawal.doubled else 1
        while wanted and time.monotonic() < self._give_up:
            answer = self._ask("POST", f"{ticket['uri']}/withdraw", body)
            if answer is not None and not _is_passing(answer):
                wanted -= 1
                with self._heard.lock:
                    self._heard.withdrawals += 1
                    if answer.status != 200:
                        self._heard.wrong.append(f"withdrawal of {order.name}: {answer.status} {answer.body[:300]!r}")
        if wanted:
            with self._heard.lock:
                self._heard.unheard.append(f"the withdrawal of {order.name}")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        """Send a request. Return None if the answer is lost. Wait a little then, and if it says "later"."""
        try:
            answer = next(self._doors).call(method, path, body, content_type="application/json", headers=headers or {})
        except LOST:
            with self._heard.lock:
                self._heard.answers_lost += 1
            time.sleep(_AGAIN_SECONDS)
            return None
        if _is_passing(answer):
            with self._heard.lock:
                self._heard.refused += 1
            time.sleep(min(float(answer.headers.get("Retry-After") or _AGAIN_SECONDS), _RETRY_AFTER_LONGEST_SECONDS))
        return answer


def _is_passing(answer: Answer) -> bool:
    """Return whether a good caller repeats the request: the intake is in trouble, or has too much to do."""
    return answer.status >= 500 or answer.status == HTTPStatus.TOO_MANY_REQUESTS
