"""The programs of an installation, as command lines: the intake, a worker, Flower."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings
from publisher.core.settings_reader import FILE_SUFFIX

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

WORKER_NAME = "publisher"


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


def worker(settings: Settings, *, name: str = WORKER_NAME) -> list[str]:
    """Return the command of a worker. The Celery app's own settings hold the pool and the concurrency.

    Gossip and mingling let workers exchange state with each other; ours share the store instead.
    """
    return [
        *(sys.executable, "-m", "celery", "--quiet", "-A", "workers.app", "worker", "-n", f"{name}@%h"),
        *("--without-gossip", "--without-mingle", "--loglevel", log_level(settings)),
    ]


def worker_node(name: str = WORKER_NAME) -> str:
    """Return the name under which that worker answers."""
    return f"{name}@{socket.gethostname()}"


def sweep(*, dry_run: bool, as_json: bool) -> list[str]:
    """Return the command of one sweep of the clouds."""
    options = ["--dry-run"] * dry_run + ["--json"] * as_json
    return [sys.executable, "-m", "workers.sweep_command", *options]


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
