from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from rich.console import Console
from sqlalchemy import update

from publisher.cli import fleet_command
from publisher.cli.command import Installation, duration, read_settings
from publisher.cli.fleet_command import take_snapshot
from publisher.core.ticket import Phase
from publisher.store import Store
from publisher.store.database import db_now, tickets, workers, writing
from publisher.store.fleet import Member
from tests.command import Cli
from tests.patience import PATIENCE
from tests.records import add_ticket, put_back

BUSY = Member("busy-1", "here", 1, "publisher@here", "0.1.0", 4)
DEAD = Member("dead-2", "there", 2, "publisher@there", "0.1.0", 2)


@pytest.fixture
def fleet(cli_store: Store) -> Store:
    """One worker that uploads and one that is silent; tickets in four states."""
    uploading, published, failed, _ = (add_ticket(cli_store) for _ in range(4))
    for member in (BUSY, DEAD):
        cli_store.fleet.beat(member)
    with writing(cli_store.engine) as connection:
        connection.execute(update(workers).where(workers.c.name == DEAD.name).values(seen=db_now() - 100))
    claims = [cli_store.leases.claim(each.id, BUSY.name, 60) for each in (uploading, published, failed)]
    assert all(claims)
    one, two, three = (claim for claim in claims if claim)
    cli_store.leases.phase(one, Phase.UPLOADING, "Uploading")
    cli_store.leases.renew(one, 60, sent=500)
    put_back(cli_store, uploading, started=5)
    cli_store.leases.published(two, cloud_id="an-id", location=None)
    cli_store.leases.failed(three, error="no")
    with writing(cli_store.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == failed.id).values(reason="quota"))
    return cli_store


@pytest.mark.usefixtures("fleet")
def test_top_prints_workers_and_tickets_as_json(cli: Cli) -> None:
    answer = cli.json("top")

    busy, dead = answer["workers"]
    assert (busy["name"], busy["node"], busy["alive"], busy["drain"]) == ("busy-1", "publisher@here", True, False)
    assert (dead["name"], dead["alive"], dead["tickets"]) == ("dead-2", False, [])
    (ticket,) = busy["tickets"]
    assert (ticket["id"], ticket["phase"], ticket["sent_bytes"], ticket["percentage"]) == (1, "uploading", 500, 50)
    assert ticket["bytes_per_second"] == pytest.approx(100, rel=0.5)
    assert 0 <= ticket["seconds_left"] <= 10
    assert answer["queue"]["depth"] == 1
    assert {state: count for state, count in answer["tickets"]["memory"].items() if count} == {
        "queued": 1,
        "publishing": 1,
        "published": 1,
        "failed": 1,
    }
    assert answer["abandoned"] == 0
    assert answer["failures"] == {"quota": 1}
    assert [(each["platform"], each["images"], each["bytes"]) for each in answer["throughput"]] == [("memory", 1, 1000)]


def test_ticket_with_an_expired_lease_is_counted_as_abandoned(cli: Cli, fleet: Store) -> None:
    with writing(fleet.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == 1).values(lease_until=0.0))

    assert cli.json("top")["abandoned"] == 1
    assert "1 to be taken over" in cli.ok("top", "--once")


@pytest.mark.usefixtures("fleet")
def test_top_prints_once_without_a_terminal(cli: Cli) -> None:
    shown = cli.ok("top")

    for words in ("1 worker ", "1 queued", "busy-1", "1 of 4", "silent for 1 min 4", "uploading", "50 %", "quota"):
        assert words in shown
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []


def test_top_without_workers_suggests_starting_one(cli: Cli) -> None:
    assert "start one: publisher worker" in cli.ok("top", "--once")
    assert cli.json("top")["workers"] == []


def test_draining_and_stopped_workers_are_marked(fleet: Store) -> None:
    console = Console(record=True, width=150, file=io.StringIO())
    fleet.fleet.ask_to_drain(BUSY.name)
    fleet.fleet.stopped(DEAD.name)
    console.print(fleet_command.draw(take_snapshot(Installation(read_settings(), fleet))))
    shown = console.export_text()

    assert "1 of 4, draining" in shown
    assert "stopped" in shown


@contextmanager
def on_a_terminal() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-m", "publisher.cli.main", "top", "--every", "0.2"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        # Tests in a background job ignore SIGINT, and this process would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, words: bytes) -> None:
    seen = b""
    while words not in seen:
        seen += os.read(terminal, 65536)


def read_on(terminal: int) -> None:
    with suppress(OSError):  # its other end is closed
        while os.read(terminal, 65536):
            pass


@pytest.mark.long
@pytest.mark.parametrize("how", ["q", "Ctrl-C"])
def test_top_refreshes_on_a_terminal_until_it_is_quit(fleet: Store, how: str) -> None:
    with on_a_terminal() as (process, terminal):
        read_until(terminal, b"busy-1")
        fleet.fleet.beat(Member("new-3", "here", 3, "x", "0.1.0", 1))
        read_until(terminal, b"new-3")
        # Read on, as a terminal does: writes to a terminal that nobody reads block for ever.
        threading.Thread(target=read_on, args=(terminal,), daemon=True).start()
        if how == "q":
            os.write(terminal, b"q")
        else:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10 * PATIENCE) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (12.4, "12 s"), (65, "1 min 5 s"), (120, "2 min"), (7500, "2 h 5 min"), (90061, "1 d 1 h")],
)
def test_duration_is_written_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
