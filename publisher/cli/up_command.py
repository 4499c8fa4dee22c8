"""`publisher up`: run a whole installation on one machine with one command."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import Annotated

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from publisher.cli import programs
from publisher.cli.command import (
    examples,
    generate_password,
    kept_password,
    make_private,
    open_store,
    open_vault,
    out,
    read_settings,
    say,
    say_warning,
    write_password,
)
from publisher.cli.supervisor import Program, Supervisor
from publisher.core.errors import ConfigurationError, QueueUnavailable
from publisher.core.settings import EVERYWHERE, Settings
from publisher.services.first_user import LOGIN as FIRST_LOGIN
from publisher.services.first_user import PASSWORD_FILE as FIRST_PASSWORD_FILE
from publisher.version import __version__

commands = typer.Typer()

FLOWER_ADDRESS = "127.0.0.1"
_COLOURS = {"intake": "cyan", "worker": "green", "flower": "yellow"}


@commands.command(epilog=examples("up", "up --concurrency 8 --quiet"))
def up(
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Do not start Flower.")] = False,
    concurrency: programs.Concurrency = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write the components' output to the log files only.")
    ] = False,
) -> None:
    """Run all components on this machine: the intake, a worker, Flower, and a broker if none is configured.

    Press Ctrl-C to stop them all.
    A component that dies is restarted; one that dies repeatedly stops them all.
    """

    settings = read_settings(serving=True)
    settings = replace(settings, worker_concurrency=concurrency or settings.worker_concurrency)
    # Only the owner may read the database, logs and images.
    os.umask(0o077)
    echo = _Echo(silent=quiet)
    with _alone(settings), Supervisor(settings.data_dir / "logs", echo.say, say_warning) as supervisor:
        _check_ports(settings, flower=not no_flower)
        children = [] if no_flower else [_flower(settings)]
        children += [_worker(settings), _intake(settings)]
        if not settings.broker_url:
            supervisor.start(_redis(settings))
        first_password = _prepare_store(settings)
        # Made now, so that the intake and the worker need not race to make it.
        open_vault(settings)
        supervisor.check()
        supervisor.start(*children)
        _print_panel(settings, first_password, flower=not no_flower)
        echo.begin()
        supervisor.wait()
    say("Stopped")


def _redis(settings: Settings) -> Program:
    return Program(
        "redis",
        programs.redis(settings),
        programs.inherited(),
        ready=lambda: programs.redis_answers(settings.embedded_redis_socket),
        ready_seconds=10,
        stop_seconds=1,
    )


def _intake(settings: Settings) -> Program:
    host = EVERYWHERE.get(settings.intake_host, settings.intake_host)
    return Program(
        "intake",
        programs.intake(settings),
        programs.inherited() | programs.configured(settings),
        ready=lambda: _http_status(host, settings.intake_port, "/api/status") == 200,
        stop_seconds=2.5,
    )


def _worker(settings: Settings) -> Program:
    return Program(
        "worker",
        programs.worker(settings),
        # Drain for no time: no other worker could continue what it hands back, and Ctrl-C should not take half a
        # minute.
        programs.inherited() | programs.configured(replace(settings, drain_seconds=0.0)),
        ready=lambda: _answers_ping(settings, programs.worker_node()),
        # Long enough to stop an upload and hand its ticket back.
        stop_seconds=4,
    )


def _flower(settings: Settings) -> Program:
    options = programs.flower_environment(
        address=FLOWER_ADDRESS,
        port=settings.flower_port,
        prefix=settings.flower_prefix,
        login=programs.FLOWER_LOGIN,
        password=kept_password(programs.flower_password_file(settings)),
    )
    healthcheck = f"{settings.flower_prefix}/healthcheck"
    return Program(
        "flower",
        programs.flower(),
        programs.inherited() | programs.configured(settings) | options,
        # Any answer will do: 401 means that it runs and asks for its login.
        ready=lambda: _http_status(FLOWER_ADDRESS, settings.flower_port, healthcheck) == 401,
        stop_seconds=1.5,
    )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Allow only one `publisher up` at a time on a data directory. Raises `ConfigurationError`."""
    make_private(settings.data_dir)
    with (settings.data_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"`publisher up` is already running here, on {settings.data_dir}; stop it first, or choose another"
                " directory with PUBLISHER_DATA_DIR"
            ) from None
        yield


def _check_ports(settings: Settings, *, flower: bool) -> None:
    """Check that the ports are free. Raises `ConfigurationError`, which says which setting to change."""
    _check_port("PUBLISHER_INTAKE", settings.intake_host, settings.intake_port)
    if flower:
        if settings.flower_port == settings.intake_port:
            raise ConfigurationError("PUBLISHER_FLOWER_PORT is the same as PUBLISHER_INTAKE_PORT; change one of them")
        _check_port("PUBLISHER_FLOWER", FLOWER_ADDRESS, settings.flower_port)


def _check_port(prefix: str, host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise ConfigurationError(f"{prefix}_PORT: {port} is not a port; choose one from 1 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigurationError(
            f"{prefix}_HOST: '{host}' is not an address of this machine: {error.strerror}"
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or choose another port"
                f" with {prefix}_PORT"
            ) from None


def _prepare_store(settings: Settings) -> str | None:
    """Upgrade the database's tables, and add an administrator if there is no user yet.

    Returns the new password, which is also kept in a file, else None.
    """
    with open_store(settings, check=False) as store:
        store.migrate()
        if store.users.list():
            return None
        password = generate_password()
        # Write the file first: a user whose password was never recorded would be useless.
        write_password(settings.data_dir / FIRST_PASSWORD_FILE, password)
        store.users.add(FIRST_LOGIN, password, administrator=True)
        return password


def _http_status(host: str, port: int, path: str) -> int | None:
    connection = HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _answers_ping(settings: Settings, node: str) -> bool:
    try:
        return bool(programs.ping_workers(settings, timeout_seconds=0.5, only=node))
    except QueueUnavailable:
        return False


class _Echo:
    """Shows what the programs print, but holds it back until the panel with address and login has been shown."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._lock = threading.Lock()
        self._held: list[tuple[str, str]] | None = []

    def begin(self) -> None:
        with self._lock:
            held, self._held = self._held or [], None
            for name, line in held:
                self._show(name, line)

    def say(self, name: str, line: str) -> None:
        # Redis prints a page about itself that does not matter here; the log file has it.
        if self._silent or name == "redis":
            return
        with self._lock:
            if self._held is None:
                self._show(name, line)
            else:
                self._held.append((name, line))

    def _show(self, name: str, line: str) -> None:
        out.print(Text.assemble((f"{name:<6} | ", _COLOURS.get(name, "")), line), soft_wrap=True)


def _print_panel(settings: Settings, first_password: str | None, *, flower: bool) -> None:
    rows = {"Console": f"{settings.intake}/console"}
    kept = settings.data_dir / FIRST_PASSWORD_FILE
    if first_password and out.is_terminal:
        rows["Login"] = f"{FIRST_LOGIN}, password {first_password} (shown once; it is in {kept})"
    elif kept.exists():
        rows["Login"] = f"{FIRST_LOGIN}, password in {kept}"
    rows["API"] = f"{settings.intake}/api"
    if flower:
        rows["Flower"] = settings.flower
        rows[""] = f"login {programs.FLOWER_LOGIN}, password in {programs.flower_password_file(settings)}"
    rows["Logs"] = str(settings.data_dir / "logs")
    rows["Next"] = "publisher publish IMAGE.qcow2 --wait    (in another terminal; see --help)"
    rows["Stop"] = "Ctrl-C"
    if not out.is_terminal:
        say(f"image-publisher {__version__} is up")
        for label, value in rows.items():
            say(f"{label:<7} {value}")
        return
    grid = Table.grid(padding=(0, 2))
    for label, value in rows.items():
        grid.add_row(Text(label, style="bold"), Text(value, overflow="fold"))
    out.print(Panel(grid, title=f"image-publisher {__version__} is up", expand=False, border_style="green"))
