"""One run: callers and faults at the same time, then a quiet phase, then a comparison of the store with the cloud."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.image import Image, image_uri
from publisher.core.ticket import State, Ticket
from publisher.devcloud.cloud import DevCloud
from publisher.services import image_files
from publisher.store.database import db_now, journal, writing
from tests.chaos.callers import Caller, Heard, Order, orders
from tests.chaos.faults import KINDS, Hands, Log, schedule
from tests.chaos.service import WORKERS, Service
from tests.chaos.verdict import Registered, Verdict, judge, outcomes, told_otherwise, unexpected
from tests.chaos.watch import Watch, recoveries
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.stack import REPOSITORY

STORES = ("sqlite", "postgresql")
BROKERS = ("embedded", "redis", "rabbitmq")
KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
BROKEN_SIZE = 8 * MIB
CALLERS = 4
TICKETS_PER_MINUTE = 40
FAULTS_PER_MINUTE = 20
_ROUNDS = 6
_UNSETTLED_SHOWN = 20
SETTLE_SECONDS = 120.0
"""After the faults, tickets that do not move for this time are stuck."""
_SETTLE_LONGEST_SECONDS = 900.0
"""Tickets that still move after this time are stuck, too: each has had all the time that it needs."""


@dataclass(frozen=True)
class Plan:
    seed: int
    minutes: float
    store: str
    broker: str

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    @property
    def tickets(self) -> int:
        return round(self.minutes * TICKETS_PER_MINUTE)

    @property
    def faults(self) -> int:
        return round(self.minutes * FAULTS_PER_MINUTE)


def chaos(plan: Plan, directory: Path, cloud: DevCloud, say: Callable[[str], None]) -> bool:
    """Run, and return whether the promise was kept and nothing else failed. Logs and evidence are in `directory`."""
    with (
        (directory / "faults.log").open("w") as out,
        Service(directory, cloud, store=plan.store, broker=plan.broker, say=(log := Log(out))) as service,
    ):
        impossible = _impossible(service)
        kinds = [kind for kind in KINDS if kind not in impossible]
        faults = schedule(random.Random(plan.seed), seconds=plan.seconds, count=plan.faults, kinds=kinds)  # noqa: S311
        *images, broken = _register(service, random.Random(plan.seed), directory)  # noqa: S311
        wanted = orders(
            random.Random(plan.seed),  # noqa: S311
            seconds=plan.seconds,
            count=plan.tickets,
            image_ids=[image.id for image in images],
            broken_id=broken.id,
            prefix=f"chaos-{plan.seed}",
        )
        say(f"Chaos, seed {plan.seed}: {plan.tickets} tickets and {plan.faults} faults in {plan.seconds:.0f} s")
        log.began = time.monotonic()
        heard, hands = Heard(), Hands(service, faults, log)
        with Watch(service.store) as watch:
            callers = _callers(service, wanted, heard, give_up=time.monotonic() + plan.seconds + SETTLE_SECONDS)
            hands.run()
            log("the faults are over")
            for caller in callers:
                caller.join()
            service.await_up()
            settled, unsettled = _settle(service, log)
        deaf = _deaf(service, images[0], heard, log)
        told = _told(service, heard)
        # From here on nothing changes the cloud any more.
        service.stop()
        verdict = _verdict(service, heard, told, directory)
        tickets = service.store.tickets.list()
        swept = _sweep(service)
        blind = _blind(service, tickets)
        if not verdict.kept:
            _write_evidence(directory / "evidence.txt", service, verdict)
        recovered = recoveries(hands.done, watch.moves)
        longest = f"{recovered[0][0]:.1f} s (after {recovered[0][1]})" if recovered else "no fault met a ticket"
        counts = hands.counts()
        lines = [
            f"seed {plan.seed}, {plan.minutes:g} minutes, store {plan.store}, broker {plan.broker}",
            f"faults: {sum(counts.values())}",
            *(f"  {kind:18} {counts[kind]}" + _why_none(impossible.get(kind)) for kind in KINDS),
            f"callers: {heard.answers_lost} answers lost, {heard.refused} from 500 up, {heard.cancels} cancels,"
            f" {heard.repeats} repeated with the same key",
            f"tickets: {len(tickets)}, {len(heard.promised)} of them promised to a caller; "
            + ", ".join(f"{count} {state}" for state, count in sorted(outcomes(tickets).items())),
            f"whose file is not what was registered: {sum(ticket.image_id == broken.id for ticket in tickets)}",
            f"processes that ended by themselves and were started again: {service.ended_by_themselves}",
            f"settled {settled:.1f} s after the last fault",
            f"longest time to recover, from the end of a fault until a ticket that it met moved on: {longest}",
            f"lost {len(verdict.lost)}, doubled {len(verdict.doubled)}, leaked {len(verdict.leaked)}, "
            f"stuck {len(verdict.stuck)}",
            *(f"  {words}" for words in (*verdict.lost, *verdict.doubled, *verdict.leaked, *verdict.stuck)),
            f"`publisher sweep --dry-run` found {len(swept)} images,"
            f" in {len(service.store.sweeping.scopes())} cloud accounts",
        ]
        failures = [*hands.errors, *heard.wrong, *(f"no answer to {name}" for name in heard.unheard)]
        failures += [f"{settled:.0f} s after the last fault it had not ended: {words}" for words in unsettled]
        failures += [f"{name} runs, and takes no tickets any more" for name in deaf]
        failures += unexpected(tickets, heard.to_be_cancelled, broken.id)
        failures += [f"sweep: {finding}" for finding in (*swept, *blind)]
        lines += [f"failed: {words}" for words in failures]
        (directory / "outcome.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            say(line)
        return verdict.kept and not failures


def _impossible(service: Service) -> dict[str, str]:
    """Return the kinds of faults that are impossible here, each with the reason."""
    found = {}
    if service.database.postgres is None:
        found["database_killed"] = "SQLite has no server"
    if not service.database.disk.own:
        found["disk_full"] = f"no file system can be mounted here: {service.database.disk.why_not}"
    return found


def _why_none(why: str | None) -> str:
    return f" ({why})" if why else ""


def _register(service: Service, rng: random.Random, directory: Path) -> list[Image]:
    """Register an image of each size, and one more whose file is then changed."""
    images = []
    for size in (*SIZES, BROKEN_SIZE):
        file = directory / f"{size}.raw"
        file.write_bytes(rng.randbytes(size))
        image = image_files.register(
            service.store, service.settings.images, file, owner="root", appliance_id=4, format="raw"
        )
        images.append(image)
        file.unlink()
    with (service.settings.images / images[-1].location).open("r+b") as opened:
        opened.write(rng.randbytes(KIB))
    return images


def _body(service: Service, order: Order) -> dict[str, Any]:
    uri = image_uri("root", 4, order.image_id)
    return publish_body(service.cloud, uri, displayName=order.name, account__glanceUrl=service.proxy.url)


def _callers(service: Service, wanted: Sequence[Order], heard: Heard, *, give_up: float) -> list[Caller]:
    began = time.monotonic()
    body = partial(_body, service)
    callers = [
        Caller(wanted[number::CALLERS], service.doors, body, heard, began=began, give_up=give_up)
        for number in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    return callers


def _settle(service: Service, log: Log) -> tuple[float, list[str]]:
    """Wait until all tickets have ended, or none moves. Return the seconds, and the tickets that have not ended."""
    began = moved = time.monotonic()
    pause = threading.Event()
    unsettled = ["the store did not answer"]
    while unsettled and time.monotonic() < min(moved + SETTLE_SECONDS, began + _SETTLE_LONGEST_SECONDS):
        try:
            now = [_told_of(ticket) for ticket in service.store.tickets.list() if not ticket.final]
            if now != unsettled:
                unsettled, moved = now, time.monotonic()
        except SQLAlchemyError as error:
            log(f"the store did not answer: {type(error).__name__}")
        pause.wait(0.1)
    shown = unsettled[:_UNSETTLED_SHOWN] + ["…"] * (len(unsettled) > _UNSETTLED_SHOWN)
    log(f"settled after {time.monotonic() - began:.2f} s; {len(unsettled)} had not ended: {', '.join(shown)}")
    return time.monotonic() - began, shown


def _told_of(ticket: Ticket) -> str:
    return f"ticket {ticket.id}, {ticket.state}, attempt {ticket.attempt}: {ticket.error or ticket.message}"


def _deaf(service: Service, image: Image, heard: Heard, log: Log) -> list[str]:
    """Return the workers that claim no more tickets, although enough are waiting."""
    waiting = {f"-{worker.pid}": worker.name for worker in service.workers}
    for number in range(_ROUNDS):
        wanted = [Order(0.0, f"after-{number}-{each}", image.id) for each in range(2 * WORKERS)]
        tickets = [service.doors[0].publish(_body(service, order)) for order in wanted]
        heard.promised |= {ticket["dbId"]: ticket["statusUri"] for ticket in tickets}
        _settle(service, log)
        ids = {ticket["dbId"] for ticket in tickets}
        took = {ticket.worker or "" for ticket in service.store.tickets.list() if ticket.id in ids}
        waiting = {pid: name for pid, name in waiting.items() if not any(worker.endswith(pid) for worker in took)}
        if not waiting:
            break
    return sorted(waiting.values())


def _told(service: Service, heard: Heard) -> dict[int, dict[str, Any]]:
    """Return the final status of each promised ticket as a caller gets it; empty if it gets none."""
    told = {}
    for id, uri in heard.promised.items():
        answer = service.doors[0].call("GET", uri)
        told[id] = answer.json if answer.status == 200 else {}
    return told


def _sweep(service: Service) -> list[dict[str, Any]]:
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


def _blind(service: Service, tickets: Sequence[Ticket]) -> list[str]:
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
    found = [finding["cloud_id"] for finding in _sweep(service)]
    glance.delete(id)
    return [] if found == [id] else [f"it overlooks an orphan: it found {found} and not {id}"]


def _verdict(service: Service, heard: Heard, told: dict[int, dict[str, Any]], directory: Path) -> Verdict:
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


def _write_evidence(file: Path, service: Service, verdict: Verdict) -> None:
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
