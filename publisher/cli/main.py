"""The `publisher` command. Commands translate; what they do is decided in the core."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from publisher.cli import (
    accounts,
    appliances,
    audit,
    devcloud,
    doctor,
    fleet,
    images,
    publish,
    roles,
    servers,
    tickets,
    up,
    users,
)
from publisher.cli.output import say_error
from publisher.core.errors import ConfigurationError, Conflict, InvalidRequest, NotFound, PublisherError
from publisher.version import __version__

WRONG_INPUT = (InvalidRequest, NotFound, Conflict, ConfigurationError)
"""What the caller can put right: exit code 2, like a wrong option. Anything else ends with 1."""


class Commands(TyperGroup):
    """Says what went wrong in one line, and never shows a traceback for it."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except PublisherError as error:
            say_error(str(error))
            sys.exit(2 if isinstance(error, WRONG_INPUT) else 1)
        except OSError as error:
            say_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            sys.exit(1)


app = typer.Typer(
    cls=Commands,
    help="Publishes machine images to clouds.",
    no_args_is_help=True,
    add_completion=False,
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


app.command()(up.up)
app.command()(publish.publish)
app.command()(tickets.status)
app.command()(tickets.cancel)
app.add_typer(tickets.app, name="tickets")
app.add_typer(images.app, name="images")
app.add_typer(appliances.app, name="appliances")
app.add_typer(users.app, name="users")
app.add_typer(roles.app, name="roles")
app.add_typer(accounts.app, name="accounts")
app.add_typer(audit.app, name="audit")
app.add_typer(fleet.app, name="fleet")
app.command()(doctor.doctor)
app.command()(servers.serve)
app.command()(servers.worker)
app.command()(servers.flower)
app.command()(servers.sweep)
app.command()(servers.migrate)
app.add_typer(devcloud.app, name="devcloud")

if __name__ == "__main__":
    app()
