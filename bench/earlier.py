"""An earlier state of this repository, with its own packages, so that a benchmark can compare both in one run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BEFORE = "457cded4a88e0ac0400631893262dd897ef59c64"
"""The last state before the intake's framework, its server and its transactions were replaced."""
BEFORE_RANGES = "7b3a1061599bfea86a4d3f46b7d333c006420499"
"""The last state that sent an image only whole: before transfers by ranges, image attributes and preflights."""


@dataclass(frozen=True)
class Version:
    """A state of the code that can be run: where it is, and the Python that has its packages."""

    name: str
    directory: Path
    python: str


PRESENT = Version("now", REPOSITORY, sys.executable)


def earlier(revision: str) -> Version:
    """Check out a revision in `.bench/` and install its packages there; both are kept for the next run.

    Ends the program if this clone does not have the revision.
    """
    directory = REPOSITORY / ".bench" / revision[:12]
    python = directory / ".venv" / "bin" / "python"
    ready = directory / ".venv" / "ready"
    if ready.exists():
        return Version(revision[:7], directory, str(python))
    if not directory.exists():
        made = subprocess.run(
            ["git", "worktree", "add", "--force", "--detach", str(directory), revision],  # noqa: S607  # the developer's git
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            raise SystemExit(f"this clone lacks {revision}: {made.stderr.strip()}; use --before '' to do without it")
    print(f"Installing the packages of {revision[:7]} into {directory} (some minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", directory / ".venv"], check=True)
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*install, "--constraint", "constraints.txt", "--editable", ".[dev]"], cwd=directory, check=True)
    ready.touch()
    return Version(revision[:7], directory, str(python))
