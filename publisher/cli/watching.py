"""Watch a ticket until it ends: a live bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from publisher.cli.command import err, mebibytes, say, say_error
from publisher.core.closed_pipe import die, reader_is_gone
from publisher.core.errors import NotFound
from publisher.core.ticket import Phase, State, Ticket

if TYPE_CHECKING:
    from publisher.store import Store

EXIT_CODES = {State.PUBLISHED: 0, State.FAILED: 1, State.CANCELLED: 3}
EXIT_TIMED_OUT = 4
EXIT_INTERRUPTED = 130

_POLL_SECONDS = 0.25


def find_ticket(store: Store, ticket_id: int) -> Ticket:
    """Return a ticket by its number. Raises `NotFound`."""
    ticket = store.tickets.get(ticket_id)
    if ticket is None:
        raise NotFound(f"there is no ticket {ticket_id}; see: publisher tickets list")
    return ticket


def watch(store: Store, ticket_id: int, *, console: Console, timeout_seconds: float | None = None) -> int:
    """Show a ticket's progress until it ends, and return the exit code.

    0 published, 1 failed, 3 cancelled, 4 not within the time-out, 130 Ctrl-C. The last two do not stop the publication.
    Raises `NotFound`.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    try:
        with _Bar(console) if console.is_terminal else _Lines(console) as view:
            while True:
                ticket = find_ticket(store, ticket_id)
                view.show(ticket)
                if ticket.final:
                    break
                if reader_is_gone():
                    die()
                if until is not None and time.monotonic() >= until:
                    say_error(f"ticket {ticket_id} has not ended after {timeout_seconds:g} s; it goes on")
                    say_how_to_go_on(ticket_id)
                    return EXIT_TIMED_OUT
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        say(f"Stopped watching; ticket {ticket_id} goes on.", console=err)
        say_how_to_go_on(ticket_id)
        return EXIT_INTERRUPTED
    tell_outcome(ticket, console=console)
    return EXIT_CODES[ticket.state]


def rate(ticket: Ticket) -> float | None:
    """Return the bytes a second, the mean of this attempt so far; None while nothing is being uploaded."""
    if ticket.upload_ends is None or not ticket.started or not ticket.progressed:
        return None
    return ticket.progress.sent / max(ticket.progressed - ticket.started, 1e-3)


def pace(ticket: Ticket) -> str:
    """Describe the percentage, the speed and the remaining time of an upload."""
    words, fast, ends = f"{ticket.progress.percentage} %", rate(ticket), ticket.upload_ends
    if fast is not None and ends is not None:
        words += f", {mebibytes(fast)}/s, {max(ends - time.time(), 0.0):.0f} s left"
    return words


def tell_outcome(ticket: Ticket, *, console: Console) -> None:
    """Say how a ticket ended. Failures go to the standard error."""
    if ticket.state is State.PUBLISHED:
        where = f" as {ticket.cloud_id}" if ticket.cloud_id else ""
        say(f"Ticket {ticket.id}: '{ticket.name}' is published to {ticket.platform}{where}", console=console)
    elif ticket.state is State.FAILED:
        say_error(f"ticket {ticket.id} failed: {ticket.error or 'no reason was given'}")
    elif ticket.state is State.CANCELLED:
        say(f"Ticket {ticket.id} was cancelled", console=console)


def say_how_to_go_on(ticket_id: int) -> None:
    say(f"Watch it: publisher status {ticket_id} --wait    Cancel it: publisher cancel {ticket_id}", console=err)


class _View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, ticket: Ticket) -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{mebibytes(task.speed)}/s" if task.speed else "", style="progress.data.speed")


class _Bar:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
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
            completed=ticket.progress.sent,
            total=ticket.progress.total or None,
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
        step = (ticket.state, ticket.phase, ticket.attempt, ticket.progress.percentage // 10 if uploading else None)
        if step != self._shown:
            self._shown = step
            words = f", {pace(ticket)}" if uploading else ""
            say(f"Ticket {ticket.id}: {ticket.message}{words}", console=self._console)
