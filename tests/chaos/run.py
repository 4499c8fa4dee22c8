"""One run: callers and faults at the same time, then a quiet phase, then a comparison of the store with the cloud."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from publisher.core.image import Image
from publisher.core.ticket import State, Ticket
from publisher.devcloud.cloud import DevCloud
from publisher.services import image_files
from tests.chaos import afterwards
from tests.chaos.bursts import Bursts, group_words, struck, waves
from tests.chaos.callers import Caller, Heard, Order, orders
from tests.chaos.faults import Hands, Log
from tests.chaos.requests import Requests
from tests.chaos.schedule import KINDS, schedule
from tests.chaos.service import Service
from tests.chaos.verdict import lineages, outcomes, unexpected
from tests.chaos.watch import Watch, recoveries

STORES = ("sqlite", "postgresql")
BROKERS = ("embedded", "redis", "rabbitmq")
KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
BROKEN_SIZE = 8 * MIB
CALLERS = 4
TICKETS_PER_MINUTE = 26
"""Bursts add about 43."""
FAULTS_PER_MINUTE = 20
_BURST_STRUCK_MINUTES = 2
"""In a run of this length, a kill of the intake must fall into a burst."""


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
        requests = Requests(service.cloud, service.proxy.url)
        requests.store_account(service.doors[0])
        *images, broken = _register(service, random.Random(plan.seed), directory)  # noqa: S311
        wanted = orders(
            random.Random(plan.seed),  # noqa: S311
            seconds=plan.seconds,
            count=plan.tickets,
            image_ids=[image.id for image in images],
            broken_id=broken.id,
            prefix=f"chaos-{plan.seed}",
            began=datetime.now(UTC),
        )
        planned = waves(
            random.Random(plan.seed),  # noqa: S311
            seconds=plan.seconds,
            image_id=images[0].id,
            prefix=f"chaos-{plan.seed}",
        )
        count = len(wanted) + sum(len(wave.orders) for wave in planned)
        say(f"Chaos, seed {plan.seed}: {count} tickets and {plan.faults} faults in {plan.seconds:.0f} s")
        log.began = time.monotonic()
        heard, give_up = Heard(), log.began + plan.seconds + afterwards.SETTLE_SECONDS
        bursts = Bursts(planned, service, requests, heard, give_up=give_up)
        hands = Hands(service, faults, log, bursts)
        with Watch(service.store) as watch:
            callers = _callers(service, requests, wanted, heard, give_up=give_up)
            bursts.start()
            hands.run()
            over = time.monotonic()
            log("the faults are over")
            for caller in callers:
                caller.join()
            bursts.await_callers()
            service.await_up()
            unsettled = afterwards.settle(service, log)
            settled = time.monotonic() - over
        deaf = afterwards.deaf(service, requests, images[0], heard, log)
        told = afterwards.told(service, heard)
        # From here on nothing changes the cloud any more.
        service.stop()
        verdict = afterwards.verdict(service, heard, told, directory)
        tickets = service.store.tickets.list()
        swept = afterwards.sweep(service)
        blind = afterwards.blind(service, tickets)
        if not verdict.kept:
            afterwards.write_evidence(directory / "evidence.txt", service, verdict)
        recovered = recoveries(hands.done, watch.moves, watch.ends)
        longest = f"{recovered[0][0]:.1f} s (after {recovered[0][1]})" if recovered else "no fault met a ticket"
        counts = hands.counts()
        hit = struck(bursts.begun, tickets)
        lines = [
            f"seed {plan.seed}, {plan.minutes:g} minutes, store {plan.store}, broker {plan.broker}",
            f"faults: {sum(counts.values())}",
            *(f"  {kind:22} {counts[kind]}" + _why_none(impossible.get(kind)) for kind in KINDS),
            f"callers: {heard.answers_lost} answers lost, {heard.refused} refused for a while, {heard.cancels} cancels,"
            f" {heard.withdrawals} withdrawals, {heard.repeats} repeated with the same key",
            f"tickets: {len(tickets)}, {len(heard.promised)} of them promised to a caller; "
            + ", ".join(f"{count} {state}" for state, count in sorted(outcomes(tickets).items())),
            f"bursts: {len(bursts.begun)}; a SIGKILL of the intake fell into {len(hit)}",
            *(f"  {each}" for each in hit),
            group_words(tickets),
            _withdrawn_words(tickets, heard),
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
        if not hit and plan.minutes >= _BURST_STRUCK_MINUTES:
            failures.append("no SIGKILL of an intake fell into a burst")
        failures += unexpected(tickets, heard.to_be_cancelled, broken.id, heard.to_be_withdrawn)
        failures += lineages(tickets, afterwards.published_at(service, tickets))
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


def _withdrawn_words(tickets: Sequence[Ticket], heard: Heard) -> str:
    withdrawn = [ticket for ticket in tickets if ticket.state is State.WITHDRAWN]
    asked = sum(ticket.id in heard.to_be_withdrawn for ticket in withdrawn)
    expired = sum(ticket.expires is not None for ticket in withdrawn)
    names = {ticket.lineage for ticket in tickets if ticket.lineage}
    replaced = sum(ticket.lineage is not None for ticket in withdrawn)
    return f"withdrawn: {asked} by callers, {expired} expired, {replaced} replaced in {len(names)} lineages"


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


def _callers(
    service: Service, requests: Requests, wanted: Sequence[Order], heard: Heard, *, give_up: float
) -> list[Caller]:
    began = time.monotonic()
    callers = [
        Caller(wanted[number::CALLERS], itertools.cycle(service.doors), requests, heard, began=began, give_up=give_up)
        for number in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    return callers
