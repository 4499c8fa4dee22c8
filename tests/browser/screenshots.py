"""Take screenshots of the main pages, light and dark, for the documentation.

    python -m tests.browser.screenshots [DIRECTORY]

They show a real intake over a store with a few tickets. No worker runs, so nothing changes.
"""

from __future__ import annotations

import hashlib
import math
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import func, insert, select, update

from publisher.core.image import Digests
from publisher.core.ticket import Phase
from publisher.store import Store
from publisher.store.database import db_now, history, images, samples, tickets, workers, writing
from tests.browser.conftest import FLAGS, Site, executable
from tests.browser.pages import claim, fill, published, ticket, upload
from tests.servers.redis import redis_server
from tests.stack import REPOSITORY, Stack

PAGES = {
    "publications": "/publications",
    "publication": "/publications/3",
    "new-publication": "/publications/new?image=1",
    "images": "/images",
    "fleet": "/fleet",
}
"""File names, and paths below `/console`."""
VIEWPORT = {"width": 1280, "height": 710}
BYTES_MAX = 150_000


def tell(store: Store) -> None:
    """Fill the store with more than the tests need: names, times, and an upload at a changing rate."""
    fill(store)
    for name in ("database-node 15.4 (hardened)", "build agent, Debian 12", "ldap-master"):
        published(store, ticket(store, name))
    cancelled = ticket(store, "jump host")
    store.tickets.request_cancel(cancelled.id)
    verifying = claim(store, ticket(store, "ci-runner"), Phase.UPLOADING)
    upload(store, verifying, 1.0)
    store.leases.phase(verifying, Phase.VERIFYING, "Comparing hashes")
    upload(store, claim(store, ticket(store, "web-frontend 2026.11.2"), Phase.UPLOADING), 0.72)
    ticket(store, "vpn-gateway")
    for name, size in (("payments-api", 1.7), ("edge-router", 0.9), ("ldap-master", 2.2)):
        digest = hashlib.sha512(name.encode()).hexdigest()
        store.images.add(
            owner="root",
            appliance_id=5,
            name=name,
            format="qcow2",
            disk_format="qcow2",
            virtual_size=20 << 30,
            digests=Digests(int(size * (1 << 30)), digest[:32], digest[-64:], digest),
            location=f"none/{name}.qcow2",
        )
    _spread(store)
    _sample(store, 3, attempts=[(1, 0.30, 40), (2, 0.46, 60)])


def beat(store: Store) -> None:
    """Make the workers look alive."""
    for worker in store.fleet.workers():
        store.fleet.beat(worker.member)


def _spread(store: Store) -> None:
    """Spread the events over an hour."""
    with writing(store.engine) as connection:
        last = connection.execute(select(func.max(tickets.c.id))).scalar_one()
        age = (last - tickets.c.id) * 290.0 + 20.0
        connection.execute(update(images).values(created=db_now() - 86400 / images.c.id))
        connection.execute(update(workers).values(started=db_now() - 93000))
        connection.execute(update(tickets).values(accepted=db_now() - age, created=db_now() - age))
        connection.execute(update(tickets).where(tickets.c.started.is_not(None)).values(started=db_now() - age + 4))
        connection.execute(update(tickets).where(tickets.c.finished.is_not(None)).values(finished=db_now() - age + 59))
        ended = tickets.c.progressed.is_not(None), tickets.c.finished.is_not(None)
        connection.execute(update(tickets).where(*ended).values(progressed=db_now() - age + 51))
        going_on = tickets.c.progressed.is_not(None), tickets.c.finished.is_(None)
        connection.execute(update(tickets).where(*going_on).values(started=db_now() - 60, progressed=db_now()))
        steps: dict[int, int] = {}
        rows = connection.execute(select(history.c.id, history.c.ticket_id).order_by(history.c.id)).all()
        for id, ticket_id in rows:
            step = steps[ticket_id] = steps.get(ticket_id, -1) + 1
            at = db_now() - ((last - ticket_id) * 290.0 + 20.0) + step * 3.7
            connection.execute(update(history).where(history.c.id == id).values(at=at))


def _sample(store: Store, ticket_id: int, attempts: list[tuple[int, float, int]]) -> None:
    """Add samples of a rate that goes up and down, for each attempt."""
    with writing(store.engine) as connection:
        total = connection.execute(select(tickets.c.total).where(tickets.c.id == ticket_id)).scalar_one()
        now = connection.execute(select(db_now())).scalar_one()
        rows: list[dict[str, float]] = []
        at = now - sum(seconds + 12 for _, _, seconds in attempts)
        for attempt, part, seconds in attempts:
            sent = 0.0
            for second in range(seconds + 1):
                rows.append({"ticket_id": ticket_id, "attempt": attempt, "at": at + second, "sent": int(sent)})
                sent += total * part / seconds * (1 + 0.3 * math.sin(second / 5.1) + 0.12 * math.sin(second * 1.9))
            at += seconds + 12
        connection.execute(insert(samples), rows)


def shoot(browser: Browser, stack: Stack, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        problems: list[str] = []
        site = Site(browser, stack, problems)
        page = site.sign_in(site.open(color_scheme=scheme, viewport=VIEWPORT, timezone_id="UTC", locale="en-GB"))
        for name, path in PAGES.items():
            beat(stack.store)
            page.goto(site.url + path)
            page.wait_for_load_state()
            if page.locator("[data-live]").count():
                page.locator(".live.on").wait_for()
            file = into / f"{name}-{scheme}.png"
            page.screenshot(path=file, animations="disabled")
            if file.stat().st_size > BYTES_MAX:
                raise SystemExit(f"{file} is larger than {BYTES_MAX} bytes")
            print(file)
        if problems:
            raise SystemExit("\n".join(problems))


def main() -> None:
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "screenshots"
    with (
        tempfile.TemporaryDirectory() as directory,
        redis_server() as redis,
        Stack.in_directory(Path(directory), redis.url, workers=0) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        tell(stack.store)
        shoot(browser, stack, into)
        browser.close()


if __name__ == "__main__":
    main()
