"""`publisher serve`, `worker`, `flower`, `sweep`, `migrate`: run a single service of an installation."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from publisher.cli import programs
from publisher.cli.command import (
    Json,
    examples,
    kept_password,
    open_store,
    read_settings,
    say,
    whole_number,
)

commands = typer.Typer()


@commands.command(epilog=examples("serve", "serve --host 0.0.0.0 --port 8080 --workers 2", "serve --proxy-headers"))
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: PUBLISHER_INTAKE_HOST).")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(most=65535),
            metavar="NUMBER",
            help="Port to listen on (default: PUBLISHER_INTAKE_PORT).",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            parser=whole_number(),
            metavar="NUMBER",
            help="Number of intake processes.",
        ),
    ] = 1,
    proxy_headers: Annotated[
        bool,
        typer.Option("--proxy-headers", help="Trust the X-Forwarded-… headers of a proxy on this machine."),
    ] = False,
) -> None:
    """Run the intake, which serves the API and the console."""
    settings = read_settings(serving=True)
    settings = replace(settings, intake_host=host or settings.intake_host, intake_port=port or settings.intake_port)
    command = programs.intake(settings, processes=workers, behind_proxy=proxy_headers)
    shared = programs.shared_metrics(settings) if workers > 1 else {}
    programs.become(command, programs.configured(settings) | shared)


@commands.command(epilog=examples("worker", "worker --concurrency 8", "worker --name second"))
def worker(
    concurrency: programs.Concurrency = None,
    name: Annotated[
        str, typer.Option(help="Name of the worker in Flower, unique on this machine.")
    ] = programs.WORKER_NAME,
) -> None:
    """Run a worker."""
    settings = read_settings(serving=True)
    settings = replace(settings, worker_concurrency=concurrency or settings.worker_concurrency)
    programs.become(programs.worker(settings, name=name), programs.configured(settings))


@commands.command(epilog=examples("flower", "flower --address 0.0.0.0 --port 5556"))
def flower(
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(most=65535),
            metavar="NUMBER",
            help="Port to listen on (default: PUBLISHER_FLOWER_PORT).",
        ),
    ] = None,
) -> None:
    """Run Flower, protected by a login.

    FLOWER_… variables in the environment override these options.
    """
    settings = read_settings(serving=True)
    password_file = programs.flower_password_file(settings)
    options = programs.flower_environment(
        address=address,
        port=port or settings.flower_port,
        prefix=settings.flower_prefix,
        login=programs.FLOWER_LOGIN,
        password="" if "FLOWER_BASIC_AUTH" in os.environ else kept_password(password_file),
    )
    if "FLOWER_BASIC_AUTH" not in os.environ:
        say(f"Login {programs.FLOWER_LOGIN}, password in {password_file}")
    own = {name: value for name, value in os.environ.items() if name.startswith("FLOWER_")}
    programs.become(programs.flower(), programs.configured(settings) | options | own)


@commands.command(epilog=examples("migrate"))
def migrate() -> None:
    """Upgrade the database's tables to this version."""
    with open_store(read_settings(), check=False) as store:
        store.migrate()
        store.check_schema()
    say("The database is up to date")


@commands.command(epilog=examples("sweep --dry-run", "sweep"))
def sweep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be deleted, and delete nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete orphans: what failed tickets have left in the clouds. Workers also do this regularly.

    An orphan is deleted if an earlier sweep found it at least PUBLISHER_SWEEP_GRACE_SECONDS ago.
    Objects in doubt are reported and kept.
    """
    settings = read_settings()
    programs.become(programs.sweep(dry_run=dry_run, as_json=as_json), programs.configured(settings))
