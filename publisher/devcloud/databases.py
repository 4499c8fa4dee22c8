"""Creates the databases of Keystone and Glance, and Keystone's keys, with the services' own commands."""

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from publisher.devcloud import config
from publisher.devcloud.config import DevCloudError, process_environment

_MANAGE = Path(__file__).parent / "inside" / "manage.py"
_LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Making:
    """The creation of a database, in another process."""

    home: Path
    log: Path
    process: subprocess.Popen[bytes]

    def finish(self) -> None:
        """Wait until it ends. Raises DevCloudError if it fails or takes longer than five minutes."""
        try:
            failed = self.process.wait(_LIMIT_SECONDS) != 0
        except subprocess.TimeoutExpired:
            self.abandon()
            failed = True
        if failed:
            raise DevCloudError(f"the database in {self.home} could not be made: read {self.log}")
        with closing(sqlite3.connect(config.database(self.home))) as connection:
            # With this, readers and the writer do not block each other. The file keeps the mode.
            connection.execute("PRAGMA journal_mode=WAL")

    def abandon(self) -> None:
        """Kill the process if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def make_keystone(home: Path, venv: Path, *, url: str, admin_password: str) -> Making:
    """Start creating Keystone's tables, its keys, and a user `admin` with the first entries of the service catalog."""
    endpoints = [f"--bootstrap-{interface}-url" for interface in ("public", "internal", "admin")]
    owner = ["--keystone-user", "root", "--keystone-group", "root"] if os.geteuid() == 0 else []  # required
    commands = [
        ["db_sync"],
        ["fernet_setup", *owner],
        ["credential_setup", *owner],
        ["bootstrap", "--bootstrap-region-id", config.REGION]
        + [word for endpoint in endpoints for word in (endpoint, f"{url}/v3")],
    ]
    # In the environment, because other users can read a command line.
    secrets = {"OS_BOOTSTRAP_PASSWORD": admin_password}
    return _manage(home, venv, "keystone", home / "keystone.conf", commands, secrets)


def make_glance(home: Path, venv: Path) -> Making:
    """Start creating Glance's tables."""
    return _manage(home, venv, "glance", home / "glance-api.conf", [["db_sync"]], {})


def _manage(
    home: Path,
    venv: Path,
    service: str,
    configuration: Path,
    commands: Sequence[Sequence[str]],
    variables: Mapping[str, str],
) -> Making:
    arguments = [["--config-file", str(configuration), *command] for command in commands]
    log = home / "manage.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                *(str(venv / "bin" / "python"), "-P", str(_MANAGE)),
                *(f"{service}.cmd.manage", f"{service}-manage", json.dumps(arguments)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=home,
            env=process_environment(venv) | dict(variables),
            start_new_session=True,
        )
    return Making(home, log, process)
