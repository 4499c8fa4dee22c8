"""Shared parts of the commands: the installation that they work on, their help, their output, their questions."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import pwd
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from publisher.core.closed_pipe import die, reader_is_gone
from publisher.core.closed_pipe import no_outcome as no_outcome  # commands import it from here
from publisher.core.errors import ConfigurationError, InvalidRequest, PublisherError
from publisher.core.settings import Settings
from publisher.core.settings_report import only_for_a_trial, unknown
from publisher.core.uris import ID_MAX

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError

    from publisher.core.vault import Vault
    from publisher.outbound.policy import OutboundPolicy
    from publisher.services.wakeups import Wakeups
    from publisher.store import Store

Number = TypeVar("Number", int, float)

# Installation -------------------------------------------------------------------------------------


class StoreUnavailable(PublisherError):
    """The database cannot be reached."""


def read_settings(*, serving: bool = False) -> Settings:
    """Return the settings of the environment, and warn of variables that look like settings and are none.

    With `serving`, also warn of settings that are unfit for production in production mode. Raises `ConfigurationError`.
    """
    settings = Settings.from_environment()
    for each in unknown():
        say_warning(each.message)
    if serving and settings.production:
        for found in only_for_a_trial(settings):
            say_warning(found.message)
    return settings


@contextmanager
def open_store(settings: Settings, *, check: bool = True) -> Iterator[Store]:
    """Open the store, and close it at the end of the block. `check` refuses tables of another version.

    The audit log attributes each change to the user of the operating system, at a terminal.

    Raises `ConfigurationError`, or `StoreUnavailable` for any database error, including one inside the block.
    """
    # Imported here, as in the commands, so that `publisher --help` need not wait for it.
    from publisher.store import Actor, Store

    if check and not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        raise ConfigurationError(
            f"there is no installation in {settings.data_dir}; start one with `publisher up`, or name the directory of"
            " another with PUBLISHER_DATA_DIR"
        )
    with database_errors():
        store = Store.open(settings)
        try:
            if check:
                store.check_schema()
            yield store.acting(Actor(_system_user(), "terminal"))
        finally:
            store.close()


class Installation:
    """The installation that a command works on: its settings, its open store, and what they lead to."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store

    @cached_property
    def vault(self) -> Vault:
        """The vault, which encrypts secrets. Raises `ConfigurationError` if the key file cannot be used."""
        return open_vault(self.settings)

    @cached_property
    def policy(self) -> OutboundPolicy:
        from publisher.outbound.policy import OutboundPolicy

        return OutboundPolicy.of(self.settings)

    def wake(self, ticket_id: int) -> None:
        """Wake a worker for a ticket, and say what to do if the broker cannot be reached."""
        from publisher.core.asking import alone

        with self._wakeups() as wakeups:
            if not alone(wakeups.ticket(ticket_id)):
                what = "check PUBLISHER_BROKER_URL" if self.settings.broker_url else "run: publisher up"
                say(f"Ticket {ticket_id} is stored and waits for a worker; {what}", console=err)

    def wake_for_check(self, check_id: int) -> bool:
        """Wake a worker for a check. Return False if the broker cannot be reached."""
        from publisher.core.asking import alone

        with self._wakeups() as wakeups:
            return alone(wakeups.check(check_id))

    @contextmanager
    def _wakeups(self) -> Iterator[Wakeups]:
        from publisher.services.wakeups import WakeQueue, Wakeups

        queue = WakeQueue.open(self.settings)
        try:
            yield Wakeups(self.store, queue)
        finally:
            queue.close()


@contextmanager
def open_installation() -> Iterator[Installation]:
    """Read the settings, and open the store as `open_store` does."""
    settings = read_settings()
    with open_store(settings) as store:
        yield Installation(settings, store)


def open_vault(settings: Settings) -> Vault:
    """Return the vault that encrypts secrets. Raises `ConfigurationError` if its key file cannot be used."""
    from publisher.core.vault import Vault

    return Vault.from_file(settings.key_file, production=settings.production)


@contextmanager
def database_errors() -> Iterator[None]:
    """Translate database errors in the block to `StoreUnavailable`."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {_reason(error)}; check PUBLISHER_DATABASE_URL") from None


def make_private(directory: Path, *, follow_links: bool = True) -> None:
    """Make a directory for its owner alone. Raises `ConfigurationError` if it exists and others may write to it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = directory.stat(follow_symlinks=follow_links)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{directory} is not a directory that only you can write to; run: chmod go-w {directory}, or choose"
            " another with PUBLISHER_DATA_DIR"
        )


def _system_user() -> str:
    """Return the name of the user who runs this, or the number if there is no name.

    Anybody may set variables like USER.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _reason(error: SQLAlchemyError) -> str:
    """Return the driver's own words, without the statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Output -------------------------------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


class _CurrentStream(Console):
    """A console that lets the caller handle a reader that is gone; Rich itself would end the process with 1."""

    def on_broken_pipe(self) -> None:
        raise  # Rich calls this while it handles the error


out = _CurrentStream(highlight=False)
err = _CurrentStream(stderr=True, highlight=False)


def say(words: str, *, console: Console = out) -> None:
    """Print one line as it is: unwrapped, nothing in it read as markup."""
    console.print(Text(words), soft_wrap=True)


def say_error(words: str) -> None:
    err.print(Text.assemble(("Error: ", "bold red"), words), soft_wrap=True)


def say_warning(words: str) -> None:
    err.print(Text.assemble(("Warning: ", "yellow"), words), soft_wrap=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed, unless `yes`.

    Raises `typer.Exit` if the answer is no, and `InvalidRequest` if there is no terminal to ask at.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest("cannot ask for confirmation without a terminal; use --yes")
    if not typer.confirm(question, err=True):
        say("Nothing was removed", console=err)
        raise typer.Exit(1)


def snake_case(name: str) -> str:
    """Return an element of the HTTP API (`keystoneUrl`) as a key of this command's JSON (`keystone_url`)."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def print_json(value: Any) -> None:
    """Print an object whose keys are stable; its times are ISO 8601 (see `iso`)."""
    typer.echo(json.dumps(value, indent=2))


def iso(seconds: float | None) -> str | None:
    """Return a time in seconds since the epoch as ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def mebibytes(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = round(seconds)
    counts = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in counts[first : first + 2] if count) or "0 s"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on a terminal.

    Elsewhere, print tab-separated lines without a heading, for other programs to read.
    """
    if not out.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))  # Rich would replace the tabs by spaces
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def end_without_reader() -> None:
    """End the command if nobody reads its output any more."""
    if reader_is_gone():
        die()


# Help ---------------------------------------------------------------------------------------------


def examples(*commands: str) -> str:
    """Put each command on a line of its own, as it is typed."""
    # In help texts, only an empty line starts a new line.
    return "\n\n".join(["Examples:", *(escape(f"  $ publisher {each}") for each in commands)])


# Numbers ------------------------------------------------------------------------------------------


def whole_number(least: int = 1, most: int = ID_MAX) -> Callable[[str], int]:
    """Return a parser of option values: whole numbers within these bounds."""

    def parse(text: str) -> int:
        try:
            return _bounded(int(text), least, most)
        except ValueError:
            raise typer.BadParameter(f"'{text}' is not a number") from None

    return parse


def seconds(least: float = 0.0) -> Callable[[str], float]:
    """Return a parser of option values: numbers of seconds."""

    def parse(text: str) -> float:
        try:
            return _bounded(float(text), least, math.inf)
        except ValueError:
            raise typer.BadParameter(f"'{text}' is not a number") from None

    return parse


def _bounded(number: Number, least: Number, most: Number) -> Number:
    if not number >= least:  # true for NaN, too
        raise typer.BadParameter(f"{number} is too small; the smallest is {least}")
    if number > most:
        raise typer.BadParameter(f"{number} is too large; the largest is {most}")
    return number


# Passwords: never an option's value, which other users of the machine could see --------------------

CLOUD_VARIABLE = "OS_PASSWORD"
"""The variable in which OpenStack's own clients look for a cloud account's password."""


def generate_password() -> str:
    """Return 144 random bits, in characters that need no quoting in a URL or a shell."""
    import secrets  # needed by few commands, and slow to import

    return secrets.token_urlsafe(18)


def password_from_stdin() -> str:
    """Read the first line of the standard input. Raises `InvalidRequest` if it is empty."""
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequest("there is no password on standard input")
    return password


def password_from_file(path: Path) -> str:
    """Read the first line of a file. Raises `InvalidRequest` if it is empty, or `OSError`."""
    with path.open(encoding="utf-8", errors="strict") as file:
        password = file.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequest(f"{path} contains no password; write it on the first line")
    return password


def ask_password(prompt: str, *, instead: str, confirm: bool = False) -> str:
    """Ask at the terminal. Without a terminal, raises `InvalidRequest`, which says what to do `instead`."""
    if not sys.stdin.isatty():
        raise InvalidRequest(f"cannot ask for a password without a terminal; {instead}")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def write_password(path: Path, password: str) -> None:
    """Write a password to a file of mode 0600, and replace an existing one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password + "\n")
    fresh.replace(path)


def kept_password(path: Path) -> str:
    """Return the password kept in a file. The first call generates it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_password(path, generate_password())
    return path.read_text("ascii").strip()


# Completion ----------------------------------------------------------------------------------------

# A shell waits while it completes, so the store gets little time to answer. Without an answer nothing is offered.
_COMPLETION_SECONDS = 1.5
_COMPLETIONS_MAX = 50

Offer = list[tuple[str, str]]


def complete_tickets(incomplete: str) -> Offer:
    return _completions(incomplete, "tickets")


def complete_images(incomplete: str) -> Offer:
    return _completions(incomplete, "images")


def complete_users(incomplete: str) -> Offer:
    return [(name, "") for name, _ in _completions(incomplete, "users")]


def _completions(incomplete: str, kind: str) -> Offer:
    answers: list[Sequence[tuple[str, str]]] = []

    def ask() -> None:
        # Whatever is wrong, a shell's completion is not the place to say so.
        with contextlib.suppress(Exception):
            answers.append(_stored_names(kind, incomplete))

    # Import it first, so that the time limit only covers the store's answer.
    importlib.import_module("publisher.store")
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_COMPLETION_SECONDS)
    return list(answers[0]) if answers else []


def _stored_names(kind: str, beginning: str) -> Sequence[tuple[str, str]]:
    from publisher.store import Store

    settings = Settings.from_environment()
    if not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        return []  # opening it would create an empty one
    store = Store.open(settings)
    try:
        return store.names(kind, beginning, _COMPLETIONS_MAX)
    finally:
        store.close()


# Signals ------------------------------------------------------------------------------------------

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command by an exception within the block, as Ctrl-C does by itself.

    The exit code is then 128 plus the signal's number. A second signal does not interrupt the clean-up.
    """
    # Signals that are ignored stay ignored: `nohup` relies on that.
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, _end) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
