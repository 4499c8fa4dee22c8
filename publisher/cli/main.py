"""The `publisher` command. Commands only translate; the core decides what they do."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from publisher.cli import (
    accounts_command,
    appliances_command,
    audit_command,
    config_command,
    devcloud_command,
    doctor_command,
    fleet_command,
    images_command,
    logs_command,
    publish_command,
    roles_command,
    servers_command,
    tickets_command,
    top_command,
    up_command,
    users_command,
)
from publisher.cli.command import say_error
from publisher.core.closed_pipe import quiet_end, reader_is_gone
from publisher.core.errors import ConfigurationError, Conflict, InvalidRequest, NotFound, PublisherError
from publisher.version import __version__

WRONG_INPUT = (InvalidRequest, NotFound, Conflict, ConfigurationError)
"""Errors that the caller can correct: exit code 2, like a wrong option. All others end with 1."""


class ConnectionBroken(PublisherError):
    """A connection broke off; try again."""


class Commands(TyperGroup):
    """A command group that reports an error in one line, and never shows a traceback for it."""

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
        except typer.BadParameter as error:
            # Without a parameter, or without a value, Typer's own words say what is missing.
            if error.param is None or not error.message:
                raise
            raise InvalidRequest(_plain(error.message), field=error.param.get_error_hint().strip("'")) from None
        except BrokenPipeError:
            if reader_is_gone():
                raise
            # Typer would take this for a broken output, and end without a message.
            raise ConnectionBroken from None


def _plain(message: str) -> str:
    """Return the message of a wrong option value without the validator's prefix and final period."""
    return message.removeprefix("Value error, ").removesuffix(".")


def _fail(words: str, code: int) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        say_error(words)
    sys.exit(code)


app = typer.Typer(
    cls=Commands,
    help="Publish machine images to clouds.",
    epilog="Exit codes: 0 success, 1 failure, 2 invalid input, 3 cancelled, 4 timed out, 130 interrupted.",
    no_args_is_help=True,
    # Rich's tracebacks would show local variables, including passwords.
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"image-publisher {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish machine images to clouds."""


PUBLISHING, RESOURCES, OPERATIONS, SERVICES = "Publishing", "Resources", "Operations", "Services"
"""The headings of the groups in the help."""

app.command(rich_help_panel=PUBLISHING, epilog=publish_command.EXAMPLES)(publish_command.publish)
app.command(rich_help_panel=PUBLISHING, epilog=tickets_command.STATUS_EXAMPLES)(tickets_command.status)
app.command(rich_help_panel=PUBLISHING, epilog=logs_command.EXAMPLES)(logs_command.logs)
app.command(rich_help_panel=PUBLISHING, epilog=tickets_command.CANCEL_EXAMPLES)(tickets_command.cancel)
app.add_typer(tickets_command.app, name="tickets", rich_help_panel=PUBLISHING)
app.add_typer(images_command.app, name="images", rich_help_panel=RESOURCES)
app.add_typer(appliances_command.app, name="appliances", rich_help_panel=RESOURCES)
app.add_typer(accounts_command.app, name="accounts", rich_help_panel=RESOURCES)
app.add_typer(users_command.app, name="users", rich_help_panel=RESOURCES)
app.add_typer(roles_command.app, name="roles", rich_help_panel=RESOURCES)
app.command(rich_help_panel=OPERATIONS, epilog=up_command.EXAMPLES)(up_command.up)
app.command(rich_help_panel=OPERATIONS, epilog=top_command.EXAMPLES)(top_command.top)
app.command(rich_help_panel=OPERATIONS, epilog=doctor_command.EXAMPLES)(doctor_command.doctor)
app.command(rich_help_panel=OPERATIONS, epilog=config_command.EXAMPLES)(config_command.config)
app.command(rich_help_panel=OPERATIONS, epilog=servers_command.SWEEP_EXAMPLES)(servers_command.sweep)
app.add_typer(fleet_command.app, name="fleet", rich_help_panel=OPERATIONS)
app.add_typer(audit_command.app, name="audit", rich_help_panel=OPERATIONS)
app.add_typer(devcloud_command.app, name="devcloud", rich_help_panel=OPERATIONS)
app.command(rich_help_panel=SERVICES, epilog=servers_command.SERVE_EXAMPLES)(servers_command.serve)
app.command(rich_help_panel=SERVICES, epilog=servers_command.WORKER_EXAMPLES)(servers_command.worker)
app.command(rich_help_panel=SERVICES, epilog=servers_command.FLOWER_EXAMPLES)(servers_command.flower)
app.command(rich_help_panel=SERVICES, epilog=servers_command.MIGRATE_EXAMPLES)(servers_command.migrate)

if __name__ == "__main__":
    app()
