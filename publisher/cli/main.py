"""The `publisher` command. Commands translate; what they do is decided in the core."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from publisher.cli import (
    accounts,
    appliances,
    audit,
    config,
    devcloud,
    doctor,
    fleet,
    images,
    logs,
    publish,
    roles,
    servers,
    tickets,
    top,
    up,
    users,
)
from publisher.cli.output import say_error
from publisher.closed_pipe import quiet_end, reader_is_gone
from publisher.core.errors import ConfigurationError, Conflict, InvalidRequest, NotFound, PublisherError
from publisher.version import __version__

WRONG_INPUT = (InvalidRequest, NotFound, Conflict, ConfigurationError)
"""What the caller can put right: exit code 2, like a wrong option. Anything else ends with 1."""


class ConnectionBroken(PublisherError):
    """A connection broke off; try again."""


class Commands(TyperGroup):
    """Says what went wrong in one line, and never shows a traceback for it."""

    def main(self, *args: Any, **options: Any) -> Any:
        with quiet_end():
            try:
                return super().main(*args, **options)
            except PublisherError as error:
                _fail(str(error), 2 if isinstance(error, WRONG_INPUT) else 1)
            except OSError as error:
                _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if reader_is_gone():
                raise
            # Typer would take it for the output's, and end without a word.
            raise ConnectionBroken from None


def _fail(words: str, code: int) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        say_error(words)
    sys.exit(code)


app = typer.Typer(
    cls=Commands,
    help="Publishes machine images to clouds.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 cancelled, 4 not in time, 130 interrupted.",
    no_args_is_help=True,
    # A traceback in Rich's form would show local variables, passwords among them.
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"image-publisher {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Publishes machine images to clouds."""


PUBLISHING, KEPT, OPERATING, PARTS = "Publishing", "What is kept", "Operating", "The parts, one by one"
"""The panels of the help."""

app.command(rich_help_panel=PUBLISHING, epilog=publish.EXAMPLES)(publish.publish)
app.command(rich_help_panel=PUBLISHING, epilog=tickets.STATUS_EXAMPLES)(tickets.status)
app.command(rich_help_panel=PUBLISHING, epilog=logs.EXAMPLES)(logs.logs)
app.command(rich_help_panel=PUBLISHING, epilog=tickets.CANCEL_EXAMPLES)(tickets.cancel)
app.add_typer(tickets.app, name="tickets", rich_help_panel=PUBLISHING)
app.add_typer(images.app, name="images", rich_help_panel=KEPT)
app.add_typer(appliances.app, name="appliances", rich_help_panel=KEPT)
app.add_typer(accounts.app, name="accounts", rich_help_panel=KEPT)
app.add_typer(users.app, name="users", rich_help_panel=KEPT)
app.add_typer(roles.app, name="roles", rich_help_panel=KEPT)
app.command(rich_help_panel=OPERATING, epilog=up.EXAMPLES)(up.up)
app.command(rich_help_panel=OPERATING, epilog=top.EXAMPLES)(top.top)
app.command(rich_help_panel=OPERATING, epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(rich_help_panel=OPERATING, epilog=config.EXAMPLES)(config.config)
app.command(rich_help_panel=OPERATING, epilog=servers.SWEEP_EXAMPLES)(servers.sweep)
app.add_typer(fleet.app, name="fleet", rich_help_panel=OPERATING)
app.add_typer(audit.app, name="audit", rich_help_panel=OPERATING)
app.add_typer(devcloud.app, name="devcloud", rich_help_panel=OPERATING)
app.command(rich_help_panel=PARTS, epilog=servers.SERVE_EXAMPLES)(servers.serve)
app.command(rich_help_panel=PARTS, epilog=servers.WORKER_EXAMPLES)(servers.worker)
app.command(rich_help_panel=PARTS, epilog=servers.FLOWER_EXAMPLES)(servers.flower)
app.command(rich_help_panel=PARTS, epilog=servers.MIGRATE_EXAMPLES)(servers.migrate)

if __name__ == "__main__":
    app()
