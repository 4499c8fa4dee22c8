"""Creates the databases of Keystone and Glance, and Keystone's keys, with the services' own commands."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from publisher.devcloud import config, environment
from publisher.devcloud.config import DevCloudError, process_environment

_MANAGE = Path(__file__).parent / "inside" / "manage.py"
_LIMIT_SECONDS = 300
_CONFIGURATIONS = {"keystone": "keystone.conf", "glance": "glance-api.conf"}


def make_tables(homes: Mapping[str, Path], venv: Path) -> None:
    """Create the database of each service, "keystone" or "glance", in its home. Raises DevCloudError.

    The empty tables depend only on the services' versions. So a copy is kept in the environment for further clouds.
    """
    new = {service: home for service, home in homes.items() if not _copied(_kept(venv, service), home)}
    _finish([_manage(home, venv, service, [["db_sync"]]) for service, home in new.items()])
    for service, home in new.items():
        with closing(sqlite3.connect(config.database(home))) as connection:
            # With this, readers and the writer do not block each other. The file keeps the mode.
            connection.execute("PRAGMA journal_mode=WAL")
        with suppress(OSError):  # the environment may be another user's
            _keep(config.database(home), _kept(venv, service))


def make_entries(home: Path, venv: Path, *, url: str, admin_password: str) -> None:
    """Create Keystone's keys, and a user `admin` with the first entries of the service catalog.

    Raises DevCloudError.
    """
    endpoints = [f"--bootstrap-{interface}-url" for interface in ("public", "internal", "admin")]
    owner = ["--keystone-user", "root", "--keystone-group", "root"] if os.geteuid() == 0 else []  # required
    commands = [
        ["fernet_setup", *owner],
        ["credential_setup", *owner],
        ["bootstrap", "--bootstrap-region-id", config.REGION]
        + [word for endpoint in endpoints for word in (endpoint, f"{url}/v3")],
    ]
    # In the environment, because other users can read a command line.
    secrets = {"OS_BOOTSTRAP_PASSWORD": admin_password}
    _finish([_manage(home, venv, "keystone", commands, secrets)])


def _kept(venv: Path, service: str) -> Path:
    return venv / "publisher-databases" / f"{service}-{environment.digest()[:16]}.sqlite"


def _copied(kept: Path, home: Path) -> bool:
    try:
        shutil.copyfile(kept, config.database(home))
    except OSError:
        config.database(home).unlink(missing_ok=True)  # half a copy
        return False
    return True


def _keep(database: Path, kept: Path) -> None:
    """Copy the database. Nobody sees half a copy, not even after a crash of the machine."""
    kept.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as fresh:
        try:
            fresh.write(database.read_bytes())
            fresh.flush()
            os.fsync(fresh.fileno())
            Path(fresh.name).chmod(0o644)
            Path(fresh.name).replace(kept)
        except BaseException:
            Path(fresh.name).unlink()
            raise


@dataclass(frozen=True)
class _Command:
    """A command that works on a database, in another process."""

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

    def abandon(self) -> None:
        """Kill the process if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _finish(commands: Sequence[_Command]) -> None:
    try:
        for command in commands:
            command.finish()
    finally:
        for command in commands:
            command.abandon()


def _manage(
    home: Path, venv: Path, service: str, commands: Sequence[Sequence[str]], variables: Mapping[str, str] | None = None
) -> _Command:
    configuration = str(home / _CONFIGURATIONS[service])
    arguments = [["--config-file", configuration, *command] for command in commands]
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
            env=process_environment(venv) | dict(variables or {}),
            start_new_session=True,
        )
    return _Command(home, log, process)
