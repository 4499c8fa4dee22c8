"""`publisher logs`: show everything known about a ticket, in order of time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli.command import (
    Installation,
    Json,
    end_without_reader,
    err,
    examples,
    iso,
    mebibytes,
    open_installation,
    print_json,
    say,
    say_error,
    seconds,
)
from publisher.cli.tickets_command import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    EXIT_TIMED_OUT,
    TicketId,
    find_ticket,
    pace,
    print_ticket,
    say_how_to_go_on,
    ticket_json,
)
from publisher.core.closed_pipe import no_outcome
from publisher.core.ticket import CloudRef, HistoryEntry, Phase, State, Ticket

if TYPE_CHECKING:
    from publisher.store import Notification, Upload

commands = typer.Typer()

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Dossier:
    """All details of a ticket."""

    ticket: Ticket
    history: Sequence[HistoryEntry]
    cloud_objects: Sequence[CloudRef]
    uploads: Sequence[Upload]
    notifications: Sequence[Notification]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `kind` is `ticket`, `cloud`, `upload` or `notice`."""

    at: float
    kind: str
    words: str


@commands.command(epilog=examples("logs 12", "logs 12 --follow", "logs 12 --json"))
def logs(
    ticket: TicketId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new events until the ticket ends.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=seconds(),
            metavar="SECONDS",
            help="With --follow: maximum time to wait for the ticket's end.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show all events of a ticket in order: states, phases, retries and their reasons, cloud objects, upload rates.

    Exit codes with --follow: 0 published, 1 failed, 3 cancelled, 4 not ended within --timeout.
    With --follow --json, each event is one line.
    """
    with open_installation() as installation, no_outcome(when=follow):
        dossier = _dossier(installation, ticket)
        if not follow:
            _print(dossier, as_json=as_json)
            return
        if not as_json:
            _print_head(dossier)
        code = _follow(installation, ticket, timeout_seconds=timeout, as_json=as_json)
    raise typer.Exit(code)


def events(dossier: Dossier) -> list[Event]:
    """Return what happened, the earliest first.

    Where a record was changed several times, only the latest change is known.
    """
    return sorted(_events(dossier), key=lambda each: each.at)


def _events(dossier: Dossier) -> Iterator[Event]:
    for entry in dossier.history:
        yield Event(entry.at, "ticket", f"{entry.to_state}: {entry.words}")
    for thing in dossier.cloud_objects:
        yield Event(thing.created, "cloud", f"{thing.cloud_id} is planned")
        if thing.state != "planned":
            yield Event(thing.modified, "cloud", f"{thing.cloud_id} is {thing.state}")
    ticket = dossier.ticket
    for each in dossier.uploads:
        if each.attempt == ticket.attempt and not ticket.final:
            continue  # the attempt goes on, and the ticket itself has its progress
        rate = f", {mebibytes(each.bytes_per_second)}/s" if each.bytes_per_second is not None else ""
        words = f"attempt {each.attempt}: {mebibytes(each.sent_last)} sent{rate}"
        yield Event(each.last, "upload", f"{words} ({each.samples} samples)")
    for notice in dossier.notifications:
        error = f": {notice.error}" if notice.error else ""
        yield Event(notice.created, "notice", f"{notice.event}, {notice.state}, attempt {notice.attempt}{error}")


def _dossier(installation: Installation, ticket_id: int) -> Dossier:
    """Read all details of a ticket. Raises `NotFound`."""
    store = installation.store
    return Dossier(
        find_ticket(installation, ticket_id),
        store.tickets.history(ticket_id),
        store.tickets.journal(ticket_id),
        store.publications.uploads([ticket_id]).get(ticket_id, []),
        store.notifications.list(ticket_id),
    )


def _print(dossier: Dossier, *, as_json: bool) -> None:
    if as_json:
        print_json(_json(dossier))
        return
    _print_head(dossier)
    for event in events(dossier):
        _tell(event, as_json=False)


def _json(dossier: Dossier) -> dict[str, Any]:
    return {
        "ticket": ticket_json(dossier.ticket),
        "reason": dossier.ticket.reason,
        "request_id": dossier.ticket.request_id,
        "traceparent": dossier.ticket.traceparent,
        "cloud_objects": [
            asdict(each) | {"created": iso(each.created), "modified": iso(each.modified)}
            for each in dossier.cloud_objects
        ],
        "uploads": [
            {
                "attempt": each.attempt,
                "samples": each.samples,
                "first": iso(each.first),
                "last": iso(each.last),
                "sent_bytes": each.sent_last,
                "bytes_per_second": each.bytes_per_second,
            }
            for each in dossier.uploads
        ],
        "events": [_event_json(each) for each in events(dossier)],
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"at": iso(event.at), "kind": event.kind, "words": event.words}


def _print_head(dossier: Dossier) -> None:
    ticket = dossier.ticket
    print_ticket(
        ticket,
        {
            "Request": dossier.ticket.request_id,
            "Trace": dossier.ticket.traceparent,
        },
    )


def _follow(installation: Installation, ticket_id: int, *, timeout_seconds: float | None, as_json: bool) -> int:
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    printed: set[object] = set()
    try:
        while True:
            dossier = _dossier(installation, ticket_id)
            for mark, event in [*((each, each) for each in events(dossier)), *_going_on(dossier)]:
                if mark not in printed:
                    printed.add(mark)
                    _tell(event, as_json=as_json)
            if dossier.ticket.final:
                return EXIT_CODES[dossier.ticket.state]
            end_without_reader()
            if until is not None and time.monotonic() >= until:
                say_error(f"ticket {ticket_id} has not ended after {timeout_seconds:g} s; it continues")
                return EXIT_TIMED_OUT
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        say(f"Stopped watching; ticket {ticket_id} continues.", console=err)
        say_how_to_go_on(ticket_id)
        return EXIT_INTERRUPTED


def _going_on(dossier: Dossier) -> Iterator[tuple[object, Event]]:
    """Yield the progress of the upload, with a key that lets it be printed once for each tenth of each attempt."""
    ticket = dossier.ticket
    if ticket.state is State.PUBLISHING and ticket.phase is Phase.UPLOADING and ticket.progressed:
        tenth = ticket.attempt, ticket.percentage // 10
        yield tenth, Event(ticket.progressed, "upload", pace(ticket))


def _tell(event: Event, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_event_json(event)))
    else:
        say(f"{iso(event.at)}  {event.kind:<6}  {event.words}")
