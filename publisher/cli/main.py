"""The `publisher` command. Commands only translate; the core decides what they do.

A command's module is imported when the command is run or its own help is shown: most of the time that a command takes
to start is spent on imports.
"""

from __future__ import annotations

import contextlib
import sys
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from publisher.core.closed_pipe import quiet_end, reader_is_gone
from publisher.core.errors import ConfigurationError, Conflict, InvalidRequest, NotFound, PublisherError
from publisher.core.garbage import without_collections
from publisher.version import __version__

WRONG_INPUT = (InvalidRequest, NotFound, Conflict, ConfigurationError)
"""Errors that the caller can correct: exit code 2, like a wrong option. All others end with 1."""

PUBLISHING, RESOURCES, OPERATIONS, SERVICES = "Publishing", "Resources", "Operations", "Services"
"""The headings of the groups in the help."""

LISTED = (
    (PUBLISHING, "publish", "publish_command", "Publish an image to a cloud."),
    (PUBLISHING, "status", "tickets_command", "Show a ticket, or follow it to its end with --wait."),
    (
        *(PUBLISHING, "logs", "logs_command"),
        "Show all events of a ticket in order: states, phases, retries and their reasons, cloud objects, upload rates.",
    ),
    (PUBLISHING, "cancel", "tickets_command", "Cancel a ticket and remove its upload from the cloud."),
    (PUBLISHING, "tickets", "tickets_command", "Manage tickets, the records of publish requests."),
    (
        *(OPERATIONS, "up", "up_command"),
        "Run all components on this machine: the intake, a worker, Flower, and a broker if none is configured.",
    ),
    (
        *(OPERATIONS, "top", "fleet_command"),
        "Show the fleet, live: workers, tickets, the queue, and the last hour's throughput and failures.",
    ),
    (OPERATIONS, "doctor", "doctor_command", "Check this installation and suggest fixes."),
    (OPERATIONS, "config", "doctor_command", "Show the settings in force and the source of each."),
    (
        *(OPERATIONS, "sweep", "servers_command"),
        "Delete orphans: what failed tickets have left in the clouds. Workers also do this regularly.",
    ),
    (OPERATIONS, "fleet", "fleet_command", "Show and drain workers."),
    (OPERATIONS, "audit", "users_command", "Show the audit log."),
    (OPERATIONS, "devcloud", "devcloud_command", "Run a real Keystone and Glance on this machine, for trials."),
    (SERVICES, "serve", "servers_command", "Run the intake, which serves the API and the console."),
    (SERVICES, "worker", "servers_command", "Run a worker."),
    (SERVICES, "flower", "servers_command", "Run Flower, protected by a login."),
    (SERVICES, "migrate", "servers_command", "Upgrade the database's tables to this version."),
    (RESOURCES, "images", "images_command", "Manage registered images."),
    (RESOURCES, "appliances", "images_command", "Manage appliances, which group images."),
    (RESOURCES, "accounts", "accounts_command", "Manage stored cloud accounts."),
    (RESOURCES, "users", "users_command", "Manage users, their roles and webhooks."),
    (RESOURCES, "roles", "users_command", "Manage roles: named sets of entitlements to grant to users."),
)
"""The commands in the order of the help: heading, name, module, and the first paragraph of the command's own help."""


class ConnectionBroken(PublisherError):
    """A connection broke off; try again."""


class ListedCommand(TyperCommand):
    """A command as the help and a shell's completion list it, without its module."""

    def __init__(self, panel: str, name: str, module: str, help: str) -> None:
        super().__init__(name, help=help, rich_help_panel=panel)
        self._module = module

    @cached_property
    def loaded(self) -> Any:
        """The command itself, from the Typer `commands` of its module."""
        with without_collections():
            module = import_module(f"publisher.cli.{self._module}")
        return get_group(module.commands).commands[str(self.name)]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Let the command itself read its options. The context then belongs to it, so that Typer invokes it."""
        return self.loaded.make_context(info_name, args, parent, **extra)


class Commands(TyperGroup):
    """All commands. Reports an error in one line, and never shows a traceback for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for each in LISTED:
            self.add_command(ListedCommand(*each))

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
    from publisher.cli.command import say_error

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


if __name__ == "__main__":
    app()
