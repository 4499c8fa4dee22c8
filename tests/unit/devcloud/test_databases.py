"""The tables of Keystone and Glance are created once for an environment. A script stands in for their commands."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from publisher.devcloud import config, databases
from publisher.devcloud import environment as devcloud_environment
from publisher.devcloud.config import DevCloudError

MANAGE = """#!{python}
import json, os, sqlite3, sys
module, program, commands = sys.argv[-3:]
with open({log!r}, "a") as log:
    log.writelines(f"{{program}} {{command[2]}}\\n" for command in json.loads(commands))
if os.path.exists({log!r} + ".broken"):
    sys.exit("broken")
with sqlite3.connect("database.sqlite") as database:
    database.execute("CREATE TABLE tables_of_" + program.partition("-")[0] + " (id INTEGER)")
"""
BOTH = ("keystone", "glance")


class Environment:
    """Whose Python only creates a table and writes down which commands it should run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.venv = directory / "venv"
        self.log = directory / "commands"
        python = self.venv / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(MANAGE.format(python=sys.executable, log=str(self.log)))
        python.chmod(0o700)

    def make_tables(self, cloud: str) -> dict[str, tuple[list[str], str]]:
        """Make both databases of a cloud. Return the tables and the journal mode of each."""
        homes = {service: self.directory / cloud / service for service in BOTH}
        for each in homes.values():
            each.mkdir(parents=True)
        databases.make_tables(homes, self.venv)
        return {service: look(config.database(home)) for service, home in homes.items()}

    @property
    def commands(self) -> list[str]:
        return sorted(self.log.read_text().splitlines())


def look(file: Path) -> tuple[list[str], str]:
    with closing(sqlite3.connect(file)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
        return tables, database.execute("PRAGMA journal_mode").fetchone()[0]


MADE = {service: ([f"tables_of_{service}"], "wal") for service in BOTH}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.mark.long
def test_second_cloud_copies_the_tables_of_the_first(environment: Environment) -> None:
    assert environment.make_tables("first") == MADE
    assert environment.make_tables("second") == MADE
    assert environment.commands == ["glance-manage db_sync", "keystone-manage db_sync"]


@pytest.mark.long
def test_environment_that_cannot_keep_tables_is_used_nevertheless(environment: Environment) -> None:
    (environment.venv / "publisher-databases").write_text("not a directory")
    assert environment.make_tables("first") == MADE
    assert environment.make_tables("second") == MADE
    assert environment.commands == ["glance-manage db_sync"] * 2 + ["keystone-manage db_sync"] * 2


@pytest.mark.long
def test_tables_of_other_versions_are_not_copied(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.make_tables("first")
    monkeypatch.setattr(devcloud_environment, devcloud_environment.digest.__name__, lambda: "other versions")
    assert environment.make_tables("second") == MADE
    assert len(environment.commands) == 4


@pytest.mark.long
def test_nothing_is_kept_of_a_failure(environment: Environment) -> None:
    broken = environment.log.with_suffix(".broken")
    broken.touch()
    with pytest.raises(DevCloudError, match=r"could not be made: read .*manage\.log"):
        environment.make_tables("first")
    broken.unlink()
    assert environment.make_tables("second") == MADE
