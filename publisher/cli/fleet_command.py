"""`publisher top` and `fleet`: watch workers, tickets and throughput; list and drain workers."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from publisher.cli.command import (
    Installation,
    Json,
    StoreUnavailable,
    database_errors,
    duration,
    examples,
    iso,
    mebibytes,
    open_installation,
    open_store,
    out,
    print_json,
    print_table,
    read_settings,
    say,
    seconds,
)
from publisher.core.ticket import HELD, State, Ticket
from publisher.version import __version__

if TYPE_CHECKING:
    from publisher.store import Queue, Throughput, WorkerStanding

commands = typer.Typer()

_QUIT = {"q", "Q"}
_BAR_WIDTH = 20
_FILE_WIDTH = 160


@commands.command(epilog=examples("top", "top --every 5", "top --once", "top --json"))
def top(
    once: Annotated[bool, typer.Option("--once", help="Print the view once and exit.")] = False,
    every: Annotated[float, typer.Option(parser=seconds(0.2), metavar="SECONDS", help="Time between updates.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show the fleet, live: workers, tickets, the queue, and the last hour's throughput and failures.

    Press q or Ctrl-C to exit. If the output is not a terminal, the view is printed once.
    """
    with open_installation() as installation:
        if as_json:
            print_json(snapshot_json(take_snapshot(installation)))
        elif once or not out.is_terminal:
            _print(draw(take_snapshot(installation)))
        else:
            _live(installation, every)


def draw(snapshot: Snapshot) -> RenderableType:
    """Draw the fleet once."""
    numbers = Columns([_tickets(snapshot), _throughput(snapshot), _failures(snapshot)], padding=(0, 4))
    return Group(_head(snapshot), Padding(numbers, (1, 0)), _workers(snapshot))


def _print(picture: RenderableType) -> None:
    if out.is_terminal:
        out.print(picture)
        return
    # A file has no width of its own, so lines must not be padded to the console's width.
    console = Console(width=_FILE_WIDTH, highlight=False)
    with console.capture() as printed:
        console.print(picture)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())


def _live(installation: Installation, every: float) -> None:
    """Draw until q or Ctrl-C. While the database is away, show the last picture."""
    picture: RenderableType = ""
    try:
        with keys() as pressed, Live(console=out, screen=True, auto_refresh=False) as screen:
            while True:
                try:
                    with database_errors():
                        picture = draw(take_snapshot(installation))
                    screen.update(picture, refresh=True)
                except StoreUnavailable as error:
                    screen.update(Group(Text(str(error), style="bold red"), picture), refresh=True)
                if pressed(every) in _QUIT:
                    return
    except KeyboardInterrupt:
        """Ctrl-C is the other way to end it."""


def _head(snapshot: Snapshot) -> Text:
    alive = sum(each.alive for each in snapshot.workers)
    queue = f"{snapshot.queue.depth} queued"
    if snapshot.queue.oldest_seconds:
        queue += f", the oldest for {duration(snapshot.queue.oldest_seconds)}"
    head = Text.assemble(
        (f"image-publisher {__version__}", "bold"),
        f"   {time.strftime('%H:%M:%S', time.localtime(snapshot.at))}   ",
        (f"{alive} {'worker' if alive == 1 else 'workers'}", "" if alive else "bold red"),
        f"   {queue}",
    )
    if snapshot.abandoned:
        head.append(f"   {snapshot.abandoned} to be taken over", style="bold yellow")
    return head


def _tickets(snapshot: Snapshot) -> RenderableType:
    rows = (
        [platform, *(str(snapshot.counts.get((platform, state), 0)) for state in State)]
        for platform in snapshot.platforms
    )
    return _table("Tickets", ["", *(state.value for state in State)], rows, empty="none")


def _throughput(snapshot: Snapshot) -> RenderableType:
    rows = (
        [
            each.platform,
            str(each.images),
            mebibytes(each.bytes),
            f"{mebibytes(each.bytes / each.seconds)}/s" if each.seconds else "",
        ]
        for each in snapshot.throughput
    )
    return _table("Published, last hour", ["", "images", "size", "each at"], rows, empty="nothing")


def _failures(snapshot: Snapshot) -> RenderableType:
    by_count = sorted(snapshot.failures.items(), key=lambda each: (-each[1], each[0]))
    rows = ([reason, str(count)] for reason, count in by_count)
    return _table("Failed, last hour", ["reason", "tickets"], rows, empty="none")


def _table(title: str, columns: list[str], rows: Iterable[list[str]], *, empty: str) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return Group(Text(title, style="bold"), table if table.row_count else Text(empty, style="dim"))


def _workers(snapshot: Snapshot) -> RenderableType:
    if not snapshot.workers:
        return Text("No workers; start one: publisher worker", style="yellow")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("worker", "ticket", "cloud", "image", "doing", "", "", "", ""):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for worker in sorted(snapshot.workers, key=lambda each: (not each.alive, each.standing.member.name)):
        for row in _worker_rows(worker, snapshot.at):
            table.add_row(*row)
    return table


def _worker_rows(worker: Working, now: float) -> Iterator[list[RenderableType]]:
    yield [Text(worker.standing.member.name, style="bold" if worker.alive else "dim"), *[""] * 3, _standing(worker)]
    for ticket in worker.tickets:
        yield ["", *_ticket_cells(ticket, now)]


def _standing(worker: Working) -> Text:
    standing = worker.standing
    if standing.stopped is not None:
        return Text("stopped", style="dim")
    if not worker.alive:
        return Text(f"silent for {duration(standing.silent_seconds)}", style="bold red")
    busy = f"{len(worker.tickets)} of {standing.member.concurrency}"
    return Text(f"{busy}, draining", style="yellow") if standing.drain else Text(busy, style="green")


def _ticket_cells(ticket: Ticket, now: float) -> list[RenderableType]:
    fast, left = ticket.bytes_per_second, seconds_left(ticket, now)
    attempt = f", attempt {ticket.attempt}" if ticket.attempt > 1 else ""
    doing = ticket.phase.value if ticket.state is State.PUBLISHING else ticket.state.value
    return [
        Text(str(ticket.id)),
        Text(ticket.platform),
        Text(ticket.name),
        Text(f"{doing}{attempt}"),
        ProgressBar(total=max(ticket.progress.total, 1), completed=ticket.bar_bytes, width=_BAR_WIDTH),
        Text(f"{ticket.percentage} %", justify="right"),
        Text(f"{mebibytes(fast)}/s" if fast is not None else ""),
        Text(f"{duration(left)} left" if left is not None else ""),
    ]


# The snapshot that is drawn -----------------------------------------------------------------------

WINDOW_SECONDS = 3600.0
"""The last hour: the period over which throughput and failures are counted."""


@dataclass(frozen=True, slots=True)
class Working:
    """A worker, and the tickets that it holds."""

    standing: WorkerStanding
    alive: bool
    tickets: Sequence[Ticket]


@dataclass(frozen=True, slots=True)
class Snapshot:
    at: float
    workers: Sequence[Working]
    queue: Queue
    counts: Mapping[tuple[str, State], int]
    """Tickets by platform and state."""
    throughput: Sequence[Throughput]
    """Throughput in the last `WINDOW_SECONDS`. `failures` counts those of the same period, by reason."""
    failures: Mapping[str, int]

    @property
    def platforms(self) -> list[str]:
        return sorted({platform for platform, _ in self.counts})

    def total(self, *states: State) -> int:
        return sum(count for (_, state), count in self.counts.items() if state in states)

    @property
    def abandoned(self) -> int:
        """Tickets that were begun but that no worker holds. The next free worker takes them over."""
        held = sum(len(each.tickets) for each in self.workers)
        return max(0, self.total(*HELD) - held)


def take_snapshot(installation: Installation) -> Snapshot:
    """Return the fleet as it is now. A worker that has been silent for `settings.silent_seconds` counts as dead."""
    store, silent_seconds = installation.store, installation.settings.silent_seconds
    standings = store.fleet.workers()
    tickets = store.tickets.several({id for each in standings for id in each.ticket_ids})
    return Snapshot(
        time.time(),
        [
            Working(each, each.alive(silent_seconds), [tickets[id] for id in each.ticket_ids if id in tickets])
            for each in standings
        ],
        store.statistics.queue(),
        store.statistics.counts(),
        store.statistics.throughput(WINDOW_SECONDS),
        store.statistics.failures(WINDOW_SECONDS),
    )


def seconds_left(ticket: Ticket, now: float) -> float | None:
    """Return the seconds until the upload ends at its rate so far; None while that is unknown."""
    return None if ticket.upload_ends is None else max(0.0, ticket.upload_ends - now)


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "at": iso(snapshot.at),
        "workers": [_worker_json(each, snapshot.at) for each in snapshot.workers],
        "queue": {"depth": snapshot.queue.depth, "oldest_seconds": round(snapshot.queue.oldest_seconds, 3)},
        "tickets": {
            platform: {state.value: snapshot.counts.get((platform, state), 0) for state in State}
            for platform in snapshot.platforms
        },
        "abandoned": snapshot.abandoned,
        "window_seconds": WINDOW_SECONDS,
        "throughput": [asdict(each) for each in snapshot.throughput],
        "failures": dict(snapshot.failures),
    }


def _worker_json(working: Working, now: float) -> dict[str, Any]:
    standing = working.standing
    return {
        **asdict(standing.member),
        "alive": working.alive,
        "drain": standing.drain,
        "started": iso(standing.started),
        "stopped": iso(standing.stopped),
        "silent_seconds": round(standing.silent_seconds, 3),
        "tickets": [_ticket_json(each, now) for each in working.tickets],
    }


def _ticket_json(ticket: Ticket, now: float) -> dict[str, Any]:
    return {
        "id": ticket.id,
        "owner": ticket.owner,
        "platform": ticket.platform,
        "name": ticket.name,
        "state": ticket.state.value,
        "phase": ticket.phase.value,
        "attempt": ticket.attempt,
        "sent_bytes": ticket.progress.sent,
        "total_bytes": ticket.progress.total,
        "percentage": ticket.percentage,
        "bytes_per_second": ticket.bytes_per_second,
        "seconds_left": seconds_left(ticket, now),
    }


# Keys ---------------------------------------------------------------------------------------------

Pressed = Callable[[float], str]
"""Returns the key that is pressed within a number of seconds; empty if none is."""


@contextmanager
def keys() -> Iterator[Pressed]:
    """Read single key presses. If standard input is not a terminal, no key is ever pressed."""
    if not sys.stdin.isatty():
        yield _none
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)  # Ctrl-C still interrupts
        yield lambda seconds: sys.stdin.read(1) if select.select([terminal], [], [], seconds)[0] else ""
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _none(seconds: float) -> str:
    time.sleep(seconds)
    return ""


# Fleet --------------------------------------------------------------------------------------------

fleet_app = typer.Typer(help="Show and drain workers.", no_args_is_help=True)
commands.add_typer(fleet_app, name="fleet")


@fleet_app.command("list", epilog=examples("fleet list", "fleet list --json"))
def list_workers(as_json: Json = False) -> None:
    """List the workers that ran within the last 24 hours, latest heartbeat first."""
    settings = read_settings()
    with open_store(settings) as store:
        found = store.fleet.workers()
    if as_json:
        print_json({"workers": [_standing_json(each, settings.silent_seconds) for each in found]})
        return
    rows = [
        [
            each.member.name,
            each.state(settings.silent_seconds),
            f"{each.silent_seconds:.0f} s ago",
            f"{len(each.ticket_ids)} of {each.member.concurrency}",
            ", ".join(str(id) for id in each.ticket_ids),
            each.member.version,
        ]
        for each in found
    ]
    print_table(["Name", "State", "Heard of", "Busy", "Tickets", "Version"], rows)


@fleet_app.command(epilog=examples("fleet drain worker-1.example.com-4711"))
def drain(name: Annotated[str, typer.Argument(help="Name of the worker, as shown by publisher fleet list.")]) -> None:
    """Drain a worker: finish current uploads, then exit.

    Tickets that have not ended after PUBLISHER_DRAIN_SECONDS go back to the queue.
    A service manager may start a new worker in its place.
    """
    settings = read_settings()
    with open_store(settings) as store:
        store.fleet.ask_to_drain(name)
    say(f"Asked {name} to drain; it starts within {settings.heartbeat_seconds:g} s")


def _standing_json(worker: WorkerStanding, silent_seconds: float) -> dict[str, Any]:
    return {
        "name": worker.member.name,
        "state": worker.state(silent_seconds).value,
        "host": worker.member.host,
        "pid": worker.member.pid,
        "node": worker.member.node,
        "version": worker.member.version,
        "concurrency": worker.member.concurrency,
        "started": iso(worker.started),
        "silent_seconds": worker.silent_seconds,
        "stopped": iso(worker.stopped),
        "ticket_ids": list(worker.ticket_ids),
    }
