"""Measure how long commands take to start, in wall time and CPU, beside a Python that does nothing.

An earlier state of the code (`--before`) runs the same commands in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.earlier import BEFORE, PRESENT, earlier

COMMANDS = ("--help", "status", "publish --help", "doctor --help")
NOTHING = "python -c pass"


@dataclass(frozen=True)
class Run:
    """Seconds of wall time and of CPU."""

    wall: float
    cpu: float


def run(command: list[str]) -> Run:
    started = time.perf_counter()
    # A command that finds no installation fails; what is measured is how soon.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return Run(time.perf_counter() - started, used.ru_utime + used.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="number of rounds (default: %(default)s)")
    parser.add_argument("--before", default=BEFORE, help="revision to compare with; '' for none (default: %(default)s)")
    given = parser.parse_args()
    ways: dict[str, list[str]] = {NOTHING: [PRESENT.python, "-c", "pass"]}
    for version in [PRESENT, *([earlier(given.before)] if given.before else [])]:
        program = os.path.join(os.path.dirname(version.python), "publisher")  # noqa: PTH118, PTH120  # not resolved
        for arguments in COMMANDS:
            name = f"publisher {arguments}" + ("" if version is PRESENT else f", {version.name}")
            ways[name] = [program, *arguments.split()]
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):
        for name, command in ways.items():
            done = run(command)
            if turn:  # the first fills the caches
                runs[name].append(done)
    table = Table("command", "wall s", "CPU s", title=f"Starts of commands, medians of {given.rounds} rounds")
    for name, each in runs.items():
        table.add_row(
            name,
            f"{statistics.median(one.wall for one in each):.2f}",
            f"{statistics.median(one.cpu for one in each):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
