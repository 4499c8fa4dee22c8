"""The `publisher` command, run in this process on its own installation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner, Result

from publisher.cli.main import ListedCommand, app
from tests import disks


def all_commands(command: Any = None, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group of commands, with the names that lead to it. The first is `publisher` itself."""
    command = get_command(app) if command is None else command
    command = command.loaded if isinstance(command, ListedCommand) else command
    yield names, command
    for name, each in getattr(command, "commands", {}).items():
        yield from all_commands(each, *names, name)


@dataclass
class Cli:
    """The command of an installation in a directory. Its broker does not run."""

    directory: Path
    runner: CliRunner = field(default_factory=CliRunner)

    def run(self, *arguments: str | Path | int, input: str | None = None, **variables: str) -> Result:
        result = self.runner.invoke(app, [str(each) for each in arguments], input=input, env=variables)
        # Every error must be reported as a message.
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
