"""`publisher status`, `cancel` and `tickets`: show, watch, cancel and retry publish requests."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from publisher.cli.command import (
    Installation,
    Json,
    Yes,
    complete_tickets,
    complete_users,
    confirm,
    duration,
    end_without_reader,
    err,
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
    say_error,
    seconds,
    whole_number,
)
from publisher.core.closed_pipe import no_outcome
from publisher.core.errors import Conflict, require_own
from publisher.core.ticket import HistoryEntry, Phase, State, Ticket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

commands = typer.Typer()
app = typer.Typer(help="Manage tickets, the records of publish requests.", no_args_is_help=True)
commands.add_typer(app, name="tickets")

TicketId = Annotated[
    int,
    typer.Argument(
        parser=whole_number(),
        help="Number of the ticket.",
        autocompletion=complete_tickets,
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Show the progress until the ticket ends.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=seconds(), metavar="SECONDS", help="With --wait: maximum time to wait for the ticket's end."
    ),
]


@commands.command(epilog=examples("status 12", "status 12 --wait --timeout 600", "status 12 --history --json"))
def status(
    ticket: TicketId,
    wait: Wait = False,
    timeout: Timeout = None,
    history: Annotated[bool, typer.Option("--history", help="Also show the ticket's history.")] = False,
    as_json: Json = False,
) -> None:
    """Show a ticket, or follow it to its end with --wait.

    Exit codes with --wait: 0 published, 1 failed, 3 cancelled or withdrawn, 4 not ended within --timeout.
    """
    with open_installation() as installation, no_outcome(when=wait):
        code = watch(installation, ticket, console=err if as_json else out, timeout_seconds=timeout) if wait else 0
        show(installation, ticket, history=history, as_json=as_json, brief=wait)
    raise typer.Exit(code)


@commands.command(epilog=examples("cancel 12", "cancel 12 && publisher status 12 --wait"))
def cancel(ticket: TicketId, as_json: Json = False) -> None:
    """Cancel a ticket and remove its upload from the cloud."""
    from publisher.services import publishing

    with open_installation() as installation:
        asked = publishing.cancel(installation.store, ticket, installation.wake)
    if as_json:
        print_json(ticket_json(asked))
    elif asked.state is State.CANCELLED:
        say(f"Ticket {ticket} was cancelled")
    else:
        say(f"Ticket {ticket} is being cancelled; see: publisher status {ticket} --wait")


@app.command("show", epilog=examples("tickets show 12", "tickets show 12 --history --json"))
def show_one(
    ticket: TicketId,
    history: Annotated[bool, typer.Option("--history", help="Also show the ticket's history.")] = False,
    as_json: Json = False,
) -> None:
    """Show a ticket."""
    with open_installation() as installation:
        show(installation, ticket, history=history, as_json=as_json)


@app.command(epilog=examples("tickets retry 12", "tickets retry 12 --wait --timeout 600"))
def retry(ticket: TicketId, wait: Wait = False, timeout: Timeout = None, as_json: Json = False) -> None:
    """Queue a failed or cancelled ticket again.

    Exit codes with --wait: 0 published, 1 failed, 3 cancelled or withdrawn, 4 not ended within --timeout.
    """
    from publisher.services import publishing

    with open_installation() as installation, no_outcome(when=wait):
        publishing.retry(installation.store, ticket, installation.wake)
        if not as_json:
            say(f"Ticket {ticket} is queued again")
        code = watch(installation, ticket, console=err if as_json else out, timeout_seconds=timeout) if wait else 0
        if as_json:
            print_json(ticket_json(find_ticket(installation, ticket)))
    raise typer.Exit(code)


@app.command(epilog=examples("tickets withdraw 12", "tickets withdraw 12 --yes --wait --timeout 600"))
def withdraw(
    ticket: TicketId, yes: Yes = False, wait: Wait = False, timeout: Timeout = None, as_json: Json = False
) -> None:
    """Withdraw a published image: delete it from the cloud. A ticket that has not ended is cancelled.

    The worker signs in with the stored account of the ticket.

    Exit codes with --wait: 0 withdrawn or cancelled, 1 still published, 4 not ended within --timeout.
    """
    from publisher.services import publishing

    with open_installation() as installation, no_outcome(when=wait):
        found = find_ticket(installation, ticket)
        if found.state is not State.WITHDRAWN:
            confirm(f"Delete '{found.name}' of ticket {ticket} from {found.platform}?", yes=yes)
        asked = publishing.withdraw(installation.store, ticket, installation.wake)
        code = 0
        if not as_json and not asked.final:
            say(f"Ticket {ticket} is {asked.state}; see: publisher status {ticket} --wait")
        if wait:
            watched = watch(installation, ticket, console=err if as_json else out, timeout_seconds=timeout)
            code = _WITHDRAWAL_EXIT_CODES.get(find_ticket(installation, ticket).state, watched)
        elif not as_json and asked.final:
            tell_outcome(asked, console=out)
        if as_json:
            print_json(ticket_json(find_ticket(installation, ticket)))
    raise typer.Exit(code)


@app.command(epilog=examples("tickets delete 12", "tickets delete 12 --yes"))
def delete(ticket: TicketId, yes: Yes = False, as_json: Json = False) -> None:
    """Delete the record of a ticket that has ended, with its history.

    A published image stays in the cloud; to delete it there: publisher tickets withdraw.
    """
    with open_installation() as installation:
        found = find_ticket(installation, ticket)
        if not found.final:
            waits = f"wait for its end: publisher status {ticket} --wait"
            first = waits if found.state is State.WITHDRAWING else f"cancel it first: publisher cancel {ticket}"
            raise Conflict(f"ticket {ticket} is {found.state}; {first}")
        confirm(f"Delete ticket {ticket}, '{found.name}' to {found.platform}, with its history?", yes=yes)
        installation.store.tickets.remove(ticket)
    if as_json:
        print_json({"deleted": [ticket]})
    else:
        say(f"Deleted ticket {ticket}")


@app.command(
    "list",
    epilog=examples(
        "tickets list --state failed",
        "tickets list --user anna --platform openstack --count 10",
        "tickets list --count 0 --json",
    ),
)
def list_(
    user: Annotated[
        str | None, typer.Option(help="Show only tickets of this user.", autocompletion=complete_users)
    ] = None,
    state: Annotated[State | None, typer.Option(help="Show only tickets in this state.")] = None,
    platform: Annotated[str | None, typer.Option(help="Show only tickets to this platform.")] = None,
    count: Annotated[
        int,
        typer.Option(
            parser=whole_number(0),
            metavar="NUMBER",
            help="Maximum number to show (0: all).",
        ),
    ] = 50,
    before: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(), metavar="NUMBER", help="Show only tickets with a smaller number, to continue a list."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List tickets, newest first."""
    with open_store(read_settings()) as store:
        # Read one more, to know whether there are more.
        found = store.tickets.list(
            owner=user,
            state=state,
            platform=platform,
            before=before,
            count=count + 1 if count else None,
            newest_first=True,
        )
    shown = found[:count] if count else found
    more = len(found) > len(shown)
    if as_json:
        print_json({"tickets": [ticket_json(ticket) for ticket in shown], "more": more})
        return
    rows = [
        [str(each.id), each.owner, str(each.image_id), each.platform, each.name, each.state, each.error or each.message]
        for each in shown
    ]
    print_table(["Id", "User", "Image", "Platform", "Name", "State", "Message"], rows)
    if more:
        say(f"There are more; continue with --before {shown[-1].id}, or show all with --count 0", console=err)


def show(installation: Installation, ticket_id: int, *, history: bool, as_json: bool, brief: bool = False) -> None:
    """Print a ticket. `brief` prints only the history, unless the output is JSON. Raises `NotFound`."""
    ticket = find_ticket(installation, ticket_id)
    entries = installation.store.tickets.history(ticket_id) if history else []
    if as_json:
        print_json(ticket_json(ticket) | ({"history": [_entry_json(entry) for entry in entries]} if history else {}))
        return
    if not brief:
        print_ticket(ticket)
    if history:
        _print_history(entries)


def ticket_json(ticket: Ticket) -> dict[str, Any]:
    from publisher.core.ticket import ticket_uri

    return {
        "id": ticket.id,
        "uid": ticket.uid,
        "uri": ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id),
        "owner": ticket.owner,
        "appliance_id": ticket.appliance_id,
        "image_id": ticket.image_id,
        "platform": ticket.platform,
        "name": ticket.name,
        "state": ticket.state.value,
        "phase": ticket.phase.value,
        "message": ticket.message,
        "percentage": ticket.percentage,
        "sent_bytes": ticket.progress.sent,
        "total_bytes": ticket.progress.total,
        "bytes_per_second": ticket.bytes_per_second,
        "attempt": ticket.attempt,
        "worker": ticket.worker,
        "cloud_id": ticket.id_in_cloud,
        "location": ticket.location,
        "error": ticket.error,
        "error_detail": ticket.error_detail,
        "reason": ticket.reason,
        "created": iso(ticket.created),
        "modified": iso(ticket.modified),
        "started": iso(ticket.started),
        "finished": iso(ticket.finished),
        "expires": iso(ticket.expires),
    }


def _entry_json(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "at": iso(entry.at),
        "from_state": entry.from_state.value if entry.from_state else None,
        "to_state": entry.to_state.value,
        "phase": entry.phase.value,
        "words": entry.words,
    }


def print_ticket(ticket: Ticket, further: Mapping[str, str | None] = {}) -> None:  # it is only read
    """Print a ticket for people, followed by the `further` lines."""
    sent, total, fast = ticket.progress.sent, ticket.progress.total, ticket.bytes_per_second
    lines = {
        "Ticket": f"{ticket.id} ({ticket.uid})",
        "Image": f"{ticket.image_id} of {ticket.owner}, appliance {ticket.appliance_id}",
        "To": f"{ticket.platform}, as '{ticket.name}'",
        "State": ticket.state.value,
        "Message": ticket.message,
        "Error": ticket.error,
        "Reason": ticket.reason,
        "Sent": f"{mebibytes(sent)} of {mebibytes(total)} ({ticket.percentage} %)",
        "Rate": None if fast is None else f"{mebibytes(fast)}/s",
        "Attempts": str(ticket.attempt or ""),
        "Worker": ticket.worker,
        "Cloud id": ticket.id_in_cloud,
        "Location": ticket.location,
        "Accepted": iso(ticket.created),
        "Finished": iso(ticket.finished),
        "Expires": iso(ticket.expires),
    }
    for label, value in (lines | dict(further)).items():
        if value:
            out.print(Text.assemble((f"{label:<10}", "bold"), value), soft_wrap=True)


def _print_history(entries: Sequence[HistoryEntry]) -> None:
    for entry in entries:
        say(f"{iso(entry.at)}  {entry.to_state.value:<10}  {entry.words}")


# Watching: a live bar on a terminal, a line for each step elsewhere -------------------------------

EXIT_CODES = {State.PUBLISHED: 0, State.FAILED: 1, State.CANCELLED: 3, State.WITHDRAWN: 3}
_WITHDRAWAL_EXIT_CODES = {State.PUBLISHED: 1, State.CANCELLED: 0, State.WITHDRAWN: 0}
EXIT_TIMED_OUT = 4
EXIT_INTERRUPTED = 130

_POLL_SECONDS = 0.25


def find_ticket(installation: Installation, ticket_id: int) -> Ticket:
    """Return a ticket by its number. Raises `NotFound`."""
    missing = f"there is no ticket {ticket_id}; see: publisher tickets list"
    return require_own(installation.store.tickets.get(ticket_id), missing, None)


def watch(installation: Installation, ticket_id: int, *, console: Console, timeout_seconds: float | None = None) -> int:
    """Show a ticket's progress until it ends, and return the exit code.

    0 published, 1 failed, 3 cancelled or withdrawn, 4 not within the time-out, 130 Ctrl-C. The last two stop nothing.
    Raises `NotFound`.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    try:
        with _Bar(console) if console.is_terminal else _Lines(console) as view:
            while True:
                ticket = find_ticket(installation, ticket_id)
                view.show(ticket)
                if ticket.final:
                    break
                end_without_reader()
                if until is not None and time.monotonic() >= until:
                    say_error(f"ticket {ticket_id} has not ended after {timeout_seconds:g} s; it continues")
                    say_how_to_go_on(ticket_id)
                    return EXIT_TIMED_OUT
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        say(f"Stopped watching; ticket {ticket_id} continues.", console=err)
        say_how_to_go_on(ticket_id)
        return EXIT_INTERRUPTED
    tell_outcome(ticket, console=console)
    return EXIT_CODES[ticket.state]


def pace(ticket: Ticket) -> str:
    """Describe the percentage, the speed and the remaining time of an upload."""
    words, fast, ends = f"{ticket.percentage} %", ticket.bytes_per_second, ticket.upload_ends
    if fast is not None and ends is not None:
        words += f", {mebibytes(fast)}/s, {max(ends - time.time(), 0.0):.0f} s left"
    return words


def tell_outcome(ticket: Ticket, *, console: Console) -> None:
    """Say how a ticket ended. Failures go to the standard error."""
    if ticket.not_withdrawn:
        say_error(f"ticket {ticket.id}: '{ticket.name}' is still published to {ticket.platform}: {ticket.error}")
    elif ticket.state is State.PUBLISHED:
        where = f" as {ticket.id_in_cloud}" if ticket.cloud_id else ""
        say(f"Ticket {ticket.id}: '{ticket.name}' is published to {ticket.platform}{where}", console=console)
    elif ticket.state is State.FAILED:
        say_error(f"ticket {ticket.id} failed: {ticket.error or 'no reason was given'}")
    elif ticket.state is State.CANCELLED:
        say(f"Ticket {ticket.id} was cancelled", console=console)
    elif ticket.state is State.WITHDRAWN:
        say(f"Ticket {ticket.id} was withdrawn: the image is no longer in the cloud", console=console)


def say_how_to_go_on(ticket_id: int) -> None:
    say(f"Watch it: publisher status {ticket_id} --wait    Cancel it: publisher cancel {ticket_id}", console=err)


class _View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, ticket: Ticket) -> None: ...


class _Pace(ProgressColumn):
    """The rate and the remaining time, while the upload runs."""

    def render(self, task: Task) -> Text:
        ends = task.fields.get("ends")
        if ends is None or not task.speed:
            return Text("")
        words = f"{mebibytes(task.speed)}/s {duration(max(ends - time.time(), 0.0))} left"
        return Text(words, style="progress.data.speed")


class _Bar:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[percentage]:>3} %"),
            _Pace(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, percentage=0)
        self._attempt = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, ticket: Ticket) -> None:
        if ticket.attempt != self._attempt:
            # Another attempt starts at the first byte again, so the rate of the previous one is no guide.
            self._attempt = ticket.attempt
            self._progress.reset(self._task)
        self._progress.update(
            self._task,
            description=f"Ticket {ticket.id}: {ticket.message}",
            completed=ticket.bar_bytes,
            total=ticket.progress.total or None,
            percentage=ticket.percentage,
            ends=ticket.upload_ends,
        )


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[object, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there is nothing to close."""

    def show(self, ticket: Ticket) -> None:
        if ticket.final:
            return
        uploading = ticket.state is State.PUBLISHING and ticket.phase is Phase.UPLOADING
        step = (ticket.state, ticket.phase, ticket.attempt, ticket.percentage // 10 if uploading else None)
        if step != self._shown:
            self._shown = step
            words = f", {pace(ticket)}" if uploading else ""
            say(f"Ticket {ticket.id}: {ticket.message}{words}", console=self._console)
