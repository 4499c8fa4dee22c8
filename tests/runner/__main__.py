"""Run the parts of a `make` target one after another, leave no process behind, and say at the end what failed.

    python -m tests.runner TARGET [ARGUMENT …]

Further arguments go to the target's last part.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.runner import failures
from tests.runner.processes import Stopped, run, take_charge


@dataclass(frozen=True)
class Part:
    name: str
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    needed: bool = False
    """Whether the run stops if this part fails, because later parts depend on it."""


@dataclass(frozen=True)
class Result:
    part: str
    words: str
    failed: list[str] = field(default_factory=list)
    right: bool = False


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def pytest(*arguments: str) -> list[str]:
    return python("pytest", "-p", "tests.runner.failures", *arguments)


MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""The tests' temporary files need a part of this at a time."""
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

SERVERS = Part("install servers", ["sh", "tests/install_servers.sh"], needed=True)
CLOUD = Part("install Keystone and Glance", python("publisher.cli.main", "devcloud", "install"), needed=True)
FAST = Part(
    "tests without servers, the long ones left out", pytest("-q", "-n", str(CORES + 1), "-m", "not real and not long")
)
# Most tests with servers mostly wait. Several at a time, mixed with the others, keep a core busy.
# `tests/distribution.py` decides which test runs where.
TESTS = Part("tests", pytest("-q", "-n", str(3 * CORES), "--dist", "loadfile", "--no-loadscope-reorder"))
ON_DISK = {"TMPDIR": tempfile.gettempdir()}
"""For what leaves evidence, or needs large files."""
CHAOS = Part("chaos", python("tests.chaos"), ON_DISK)
PROMISES = Part(
    "promises",
    pytest("-s", "tests/integration/test_promises.py", "tests/unit/intake/test_http_mutated.py"),
    {"FULL": "1", **ON_DISK},
)
TARGETS = {
    "test": [SERVERS, CLOUD, TESTS],
    "test-fast": [FAST],
    "chaos": [SERVERS, CLOUD, CHAOS],
    "promises": [SERVERS, CLOUD, PROMISES],
}


def run_parts(target: str, parts: Sequence[Part], *, grace_seconds: float = 20.0, stop_seconds: float = 10.0) -> int:
    """Return the exit code: 0 if every part passed. The times are those of `processes.run`."""
    began = time.monotonic()
    results: list[Result] = []
    stopped = 0
    with tempfile.TemporaryDirectory(prefix="runner-") as own, temporary_directory() as directory:
        for part in parts:
            failures_file = Path(own) / f"failures-{len(results)}"
            result, stopped = run_part(part, failures_file, directory, grace_seconds, stop_seconds)
            results.append(result)
            say(f"{target}: {result.part} {result.words}")
            if stopped or (part.needed and not result.right):
                break
    say("\n".join(["", *summary(target, results, time.monotonic() - began)]))
    if stopped:
        return 128 + stopped
    return 0 if all(each.right for each in results) else 1


def run_part(
    part: Part, failures_file: Path, directory: str, grace_seconds: float, stop_seconds: float
) -> tuple[Result, int]:
    """Return the result of the part and the signal that stopped it (0: none). `directory`: for temporary files."""
    began = time.monotonic()
    variables = environment() | {"TMPDIR": directory} | part.variables | {failures.VARIABLE: str(failures_file)}
    try:
        outcome = run(part.command, variables, grace_seconds=grace_seconds, stop_seconds=stop_seconds)
    except Stopped as stopped:
        words = f"was stopped by {stopped} after {time.monotonic() - began:.0f} s"
        return Result(part.name, words, read(failures_file)), stopped.number
    took = f"{time.monotonic() - began:.0f} s"
    failed = [*read(failures_file), *(f"left behind: {each}" for each in outcome.left)]
    if outcome.code == 0 and not failed:
        return Result(part.name, f"passed in {took}", right=True), 0
    how = f"exit code {outcome.code}" if outcome.code >= 0 else f"ended by signal {-outcome.code}"
    return Result(part.name, f"FAILED after {took} ({how})", failed), 0


@contextmanager
def temporary_directory() -> Iterator[str]:
    """Return a directory for the tests' temporary files, and delete it at the end.

    It is in memory if there is room: the tests create and delete thousands of small files and databases, and a disk
    takes milliseconds for each. To look at the files of a failed test, run that test with pytest alone.
    """
    if not has_room(MEMORY):
        yield tempfile.gettempdir()
        return
    with tempfile.TemporaryDirectory(prefix="tests-", dir=MEMORY, ignore_cleanup_errors=True) as directory:
        # PostgreSQL does not run as root. As another user, it must be able to reach its own directory in this one.
        Path(directory).chmod(0o711)
        yield directory


def has_room(directory: Path) -> bool:
    """Return whether programs can be run in the directory, and whether it and the memory have room for all tests."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    free = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return not found.f_flag & os.ST_NOEXEC and free >= ROOM_BYTES and os.access(directory, os.W_OK)


def environment() -> dict[str, str]:
    """Our environment, but Python may store byte code: otherwise hundreds of programs would compile it again."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def read(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def summary(target: str, results: Sequence[Result], seconds: float) -> list[str]:
    lines: list[str] = []
    for each in results:
        lines += [f"{each.part}: {each.words}", *(f"    {name}" for name in each.failed)]
    wrong = [each.part for each in results if not each.right]
    verdict = f"FAILED: {', '.join(wrong)}" if wrong else "passed"
    return [*lines, f"make {target} took {seconds:.0f} s and {verdict}"]


def say(words: str) -> None:
    print(words, flush=True)


def main(target: str, *more: str) -> int:
    take_charge()
    *first, last = TARGETS[target]
    return run_parts(target, [*first, Part(last.name, [*last.command, *more], last.variables)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
