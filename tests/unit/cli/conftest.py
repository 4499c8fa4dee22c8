"""The `publisher` command, run in this process on an installation of its own."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from typer.testing import CliRunner, Result

from publisher.cli.main import app
from publisher.core.settings import Settings
from publisher.store import Store
from tests import disks


@dataclass
class Cli:
    """An installation in a directory; its broker does not run."""

    directory: Path
    runner: CliRunner = field(default_factory=CliRunner)

    def run(self, *arguments: str | Path | int, input: str | None = None, **variables: str) -> Result:
        result = self.runner.invoke(app, [str(each) for each in arguments], input=input, env=variables)
        # Whatever goes wrong is said in words.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    def ok(self, *arguments: str | Path | int, input: str | None = None, **variables: str) -> str:
        result = self.run(*arguments, input=input, **variables)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str | Path | int, **variables: str) -> Any:
        return json.loads(self.ok(*arguments, "--json", **variables))

    def image_file(self, name: str = "disk.img", content: bytes = disks.raw(b"a disk" * 1000)) -> Path:
        file = self.directory / name
        file.write_bytes(content)
        return file


@pytest.fixture(scope="session", autouse=True)
def _commands_are_made_once() -> Iterator[None]:
    """Typer's runner makes all commands anew for each call, which takes longer than most calls do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def bare_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """With no database yet."""
    for variable in os.environ:
        if variable.startswith(("PUBLISHER_", "OS_", "FLOWER_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PUBLISHER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PUBLISHER_SEND_TIMEOUT_SECONDS", "0.2")
    return Cli(tmp_path)


@pytest.fixture
def cli(bare_cli: Cli, sqlite_url: str) -> Cli:
    """With a migrated database and the user root."""
    bare_cli.ok("users", "add", "root", "--admin", "--password-stdin", input="secret\n")
    return bare_cli


@pytest.fixture
def cli_store(cli: Cli) -> Iterator[Store]:
    """The store of that installation, as a worker has it."""
    store = Store.open(Settings.from_environment())
    yield store
    store.close()
