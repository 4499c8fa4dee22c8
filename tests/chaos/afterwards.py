"""What is examined when the faults are over: whether all tickets end, what callers get, and what is in the cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.image import Image
from publisher.core.ticket import State, Ticket
from publisher.store.database import db_now, journal, writing
from tests.chaos.callers import Heard, Order
from tests.chaos.faults import Log
from tests.chaos.requests import Requests
from tests.chaos.service import WORKERS, Service
from tests.chaos.verdict import Registered, Verdict, judge, told_otherwise
from tests.clouds import Glance
from tests.patience import PATIENCE
from tests.stack import REPOSITORY

_ROUNDS = 6
_UNSETTLED_SHOWN = 20
SETTLE_SECONDS = 120.0
"""After the faults, tickets that do not move for this time are stuck."""
_SETTLE_LONGEST_SECONDS = 900.0
"""Tickets that still move after this time are stuck, too: each has had all the time that it needs."""


def settle(service: Service, log: Log) -> list[str]:
    """Wait until all tickets have ended, and expired, or none moves. Return those that have not."""
    began = moved = time.monotonic()
    pause = threading.Event()
    unsettled = ["the store did not answer"]
    while unsettled and time.monotonic() < min(moved + SETTLE_SECONDS, began + _SETTLE_LONGEST_SECONDS):
        try:
            now = [_told_of(ticket) for ticket in service.store.tickets.list() if not _is_over(ticket)]
            if now != unsettled:
                unsettled, moved = now, time.monotonic()
        except SQLAlchemyError as error:
            log(f"the store did not answer: {type(error).__name__}")
        pause.wait(0.1)
    shown = unsettled[:_UNSETTLED_SHOWN] + ["…"] * (len(unsettled) > _UNSETTLED_SHOWN)
    log(f"settled after {time.monotonic() - began:.2f} s; {len(unsettled)} had not ended: {', '.join(shown)}")
    return shown


def _is_over(ticket: Ticket) -> bool:
    waits_for_its_expiry = ticket.state is State.PUBLISHED and ticket.expires is not None and not ticket.not_withdrawn
    return ticket.final and not waits_for_its_expiry


def _told_of(ticket: Ticket) -> str:
    return f"ticket {ticket.id}, {ticket.state}, attempt {ticket.attempt}: {ticket.error or ticket.message}"


def deaf(service: Service, requests: Requests, image: Image, heard: Heard, log: Log) -> list[str]:
    """Return the workers that claim no more tickets, although enough are waiting."""
    waiting = {f"-{worker.pid}": worker.name for worker in service.workers}
    for number in range(_ROUNDS):
        wanted = [Order(0.0, f"after-{number}-{each}", image.id) for each in range(2 * WORKERS)]
        tickets = [service.doors[0].publish(requests.publish(order)) for order in wanted]
        heard.promised |= {ticket["dbId"]: ticket["statusUri"] for ticket in tickets}
        settle(service, log)
        ids = {ticket["dbId"] for ticket in tickets}
        took = {ticket.worker or "" for ticket in service.store.tickets.list() if ticket.id in ids}
        waiting = {pid: name for pid, name in waiting.items() if not any(worker.endswith(pid) for worker in took)}
        if not waiting:
            break
    return sorted(waiting.values())


def published_at(service: Service, tickets: Iterable[Ticket]) -> dict[int, float]:
    """Return when the tickets were published, also those that were withdrawn since."""
    found = {}
    for ticket in tickets:
        entries = service.store.tickets.history(ticket.id)
        times = [
            each.at for each in entries if each.from_state is State.PUBLISHING and each.to_state is State.PUBLISHED
        ]
        if times:
            found[ticket.id] = times[0]
    return found


def told(service: Service, heard: Heard) -> dict[int, dict[str, Any]]:
    """Return the final status of each promised ticket as a caller gets it; empty if it gets none."""
    told = {}
    for id, uri in heard.promised.items():
        answer = service.doors[0].call("GET", uri)
        told[id] = answer.json if answer.status == 200 else {}
    return told


def sweep(service: Service) -> list[dict[str, Any]]:
    """Return the findings of `publisher sweep --dry-run` without a grace period: none if the promise was kept."""
    done = subprocess.run(
        [sys.executable, "-m", "publisher.cli.main", "sweep", "--dry-run", "--json"],
        cwd=REPOSITORY,
        env=os.environ | service.settings.environment() | {"PUBLISHER_SWEEP_GRACE_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return findings


def blind(service: Service, tickets: Sequence[Ticket]) -> list[str]:
    """Create an orphan, and return an error if the sweep overlooks it."""
    ticket = next((each for each in tickets if each.state in (State.FAILED, State.CANCELLED)), None)
    if ticket is None:
        return ["no ticket has failed or was cancelled: there is nothing to try it with"]
    glance, id = Glance(service.cloud), str(uuid.uuid4())
    tags = {"publisher_ticket": ticket.uid, "publisher_deployment": service.store.deployment, "publisher_cloud_id": id}
    with writing(service.store.engine) as connection:
        row = {"ticket_id": ticket.id, "cloud_id": id, "state": "present", "created": db_now(), "modified": db_now()}
        connection.execute(journal.insert().values(row))
    glance.rest("POST", "/v2/images", {"id": id, "name": "an orphan", **tags})
    found = [finding["cloud_id"] for finding in sweep(service)]
    glance.delete(id)
    return [] if found == [id] else [f"it overlooks an orphan: it found {found} and not {id}"]


def verdict(service: Service, heard: Heard, told: dict[int, dict[str, Any]], directory: Path) -> Verdict:
    # An administrator asks Glance itself, not the proxy, and without the publisher's code.
    glance = Glance(service.cloud, "admin")
    registered = {
        image.id: Registered.of(service.settings.images / image.location)
        for image in service.store.images.list(owner="root")
    }
    tickets = service.store.tickets.list()
    verdict = judge(tickets, heard.promised, images_of(glance, service.store.deployment), registered, glance.data)
    for ticket in tickets:
        if ticket.id in told:
            status = told[ticket.id]
            wrong = told_otherwise(ticket, status) if status else "callers get no status"
            if wrong:
                verdict.lost.append(f"ticket {ticket.id} ({ticket.state}): {wrong}")
                verdict.tickets.add(ticket.id)
    return verdict


def images_of(glance: Glance, deployment: str) -> list[dict[str, Any]]:
    """Return all images of one installation, in any state and of any owner. Images that name no installation count as
    its leftovers.

    Leaves out those that Glance itself reports as deleted: if it is killed in the middle of a deletion, it keeps the
    record, without its properties, and refuses to delete it again.
    """
    found: list[dict[str, Any]] = []
    path = "/v2/images?visibility=all&limit=200"
    while path:
        page = glance.rest("GET", path)
        there = [each for each in page["images"] if each["status"] != "deleted"]
        found += [each for each in there if each.get("publisher_deployment", deployment) == deployment]
        path = page.get("next", "")
    return found


def write_evidence(file: Path, service: Service, verdict: Verdict) -> None:
    """Write down the history and the journal of each ticket that breaks the promise."""
    with file.open("w") as out:
        for ticket in service.store.tickets.list():
            if ticket.id in verdict.tickets:
                _tell(ticket, service, lambda words: out.write(words + "\n"))


def _tell(ticket: Ticket, service: Service, say: Callable[[str], object]) -> None:
    say(
        f"ticket {ticket.id} {ticket.uid} {ticket.name} {ticket.state} {ticket.error or ''} {ticket.error_detail or ''}"
    )
    for entry in service.store.tickets.history(ticket.id):
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at)) + f",{int(entry.at % 1 * 1000):03d}"
        say(f"  {clock} {entry.from_state} -> {entry.to_state} {entry.phase}: {entry.words}")
    for ref in service.store.tickets.journal(ticket.id):
        say(f"  journal: {ref.cloud_id} {ref.state}")
