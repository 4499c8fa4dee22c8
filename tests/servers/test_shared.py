"""Processes of one test run share what one of them has started or made, and nothing of it outlives them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.postgres import find_postgres
from tests.servers.process import listens
from tests.servers.shared import Run, is_locked
from tests.stack import REPOSITORY, until

HOLDING = """
import pathlib, sys
from tests.servers.shared import Run
print(Run(pathlib.Path(sys.argv[1])).server("postgres", "postgres")["port"], flush=True)
sys.stdin.read()
"""


def holding(directory: Path) -> subprocess.Popen[str]:
    """Start a process of the run that uses a server until it is killed."""
    command = [sys.executable, "-c", HOLDING, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


@pytest.mark.real
def test_server_stops_when_the_last_process_that_could_use_it_is_killed(tmp_path: Path) -> None:
    if find_postgres() is None:
        missing("PostgreSQL")
    ports = []
    processes = [holding(tmp_path) for _ in range(2)]
    try:
        for each in processes:
            assert each.stdout is not None
            ports.append(int(each.stdout.readline()))
        assert ports[0] == ports[1]
        processes[0].kill()
        processes[0].wait(10 * PATIENCE)
        assert listens(ports[1])
        assert is_locked(tmp_path / "postgres.keeper")
    finally:
        for each in processes:
            each.kill()
            each.communicate(timeout=10 * PATIENCE)
    until(lambda: not is_locked(tmp_path / "postgres.keeper"), 30)
    assert not listens(ports[1])


@pytest.mark.long
def test_each_process_gets_the_error_of_a_server_that_did_not_start(tmp_path: Path) -> None:
    runs = [Run(tmp_path), Run(tmp_path)]
    for each in runs:
        with pytest.raises(RuntimeError, match=r"(?s)broken did not start.*KeyError: 'no such kind'"):
            each.server("broken", "no such kind")
    for each in runs:
        each.leave()
    assert (tmp_path / "broken.log").read_text().count("KeyError") == 1, "it was started once"


def test_what_one_process_made_is_not_made_again(tmp_path: Path) -> None:
    runs = [Run(tmp_path), Run(tmp_path)]
    assert runs[0].once("number", lambda: 0) == 0
    assert runs[1].once("number", lambda: 1) == 0
    runs[0].leave()
    runs[1].leave()
    runs[1].end()
    assert not tmp_path.exists()


def test_failed_making_is_tried_again_by_the_next_process(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def fail() -> int:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run.once("number", fail)
    assert run.once("number", lambda: 1) == 1
    run.leave()


def test_only_one_process_at_a_time_is_alone(tmp_path: Path) -> None:
    runs = [Run(tmp_path), Run(tmp_path)]
    with runs[0].alone("cloud"):
        assert is_locked(tmp_path / "cloud.lock")
    with runs[1].alone("cloud"):
        assert is_locked(tmp_path / "cloud.lock")
    assert not is_locked(tmp_path / "cloud.lock")
    for each in runs:
        each.leave()
