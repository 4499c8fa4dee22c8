"""The supervisor, with small programs in place of the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from publisher.cli import supervisor as module
from publisher.cli.supervisor import Program, ProgramFailed, StopAsked, Supervisor
from tests.patience import PATIENCE

SLEEP = """\
import pathlib, signal, sys, time
name = sys.argv[1]
def stop(*_):
    with open("stopped", "a") as out:
        out.write(name + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("here is", name)
pathlib.Path(name).touch()
time.sleep(3600)
"""
STUBBORN = SLEEP.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lines() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, lines: list[tuple[str, str]]) -> Supervisor:
    return Supervisor(tmp_path / "logs", lambda name, line: lines.append((name, line)))


# The whole `with` block is expected to raise, because leaving it may raise, too.
# ruff: noqa: PT012


def program(
    name: str, code: str = SLEEP, *, ready: Callable[[], bool] | None = None, seconds: float = 10 * PATIENCE
) -> Program:
    return Program(
        name,
        [sys.executable, "-c", code, name],
        dict(os.environ),
        ready or Path(name).exists,
        ready_seconds=seconds,
        stop_seconds=0.5 if code == STUBBORN else 5 * PATIENCE,
    )


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_programs_stop_in_reverse_start_order(
    supervisor: Supervisor, lines: list[tuple[str, str]], tmp_path: Path
) -> None:
    before = set(children())
    with supervisor:
        supervisor.start(program("broker"))
        supervisor.start(program("worker"), program("intake"))
        supervisor.check()
        assert len(set(children()) - before) == 3

    assert Path("stopped").read_text().split() == ["intake", "worker", "broker"]
    assert not set(children()) - before
    assert ("intake", "here is intake") in lines
    assert (tmp_path / "logs" / "worker.log").read_text() == "here is worker\n"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_supervisor_without_error(supervisor: Supervisor, number: signal.Signals) -> None:
    # The tests may run with this signal ignored: SIGHUP under nohup, SIGINT in a background job.
    inherited = signal.signal(number, signal.default_int_handler)
    try:
        with supervisor:
            supervisor.start(program("worker"))
            signal.raise_signal(number)
            supervisor.wait()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, inherited)

    assert Path("stopped").exists()


def test_signal_during_a_start_ends_the_supervisor(supervisor: Supervisor) -> None:
    def asked() -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    with supervisor:
        supervisor.start(program("worker", ready=asked))
        pytest.fail("the block should have ended")


@pytest.mark.long
def test_death_at_start_stops_all_programs_and_shows_the_output(supervisor: Supervisor) -> None:
    dying = "print('out of luck'); raise SystemExit(3)"
    with (
        pytest.raises(
            ProgramFailed, match=r"(?s)worker stopped unexpectedly \(exit code 3\).*out of luck.*worker\.log"
        ),
        supervisor,
    ):
        supervisor.start(program("broker"))
        supervisor.start(program("worker", dying, ready=lambda: False))

    assert Path("stopped").read_text().split() == ["broker"]


@pytest.mark.long
def test_killed_program_is_restarted(tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    told: list[str] = []
    before = set(children())
    supervisor = Supervisor(tmp_path / "logs", lambda name, line: lines.append((name, line)), told.append)
    with supervisor:
        supervisor.start(program("broker"), program("worker"), program("intake"))
        killed = next(each for each in set(children()) - before if "worker" in each.cmdline())
        Path("worker").unlink()
        killed.kill()
        stopping = threading.Thread(target=stop_once, args=(lambda: "worker answers again" in told,))
        stopping.start()
        supervisor.wait()
    stopping.join()

    assert told == [
        "worker stopped unexpectedly (killed by SIGKILL); restarting it in 0.5 s",
        "worker answers again",
    ]
    assert lines.count(("worker", "here is worker")) == 2
    assert Path("stopped").read_text().split() == ["intake", "worker", "broker"], "it has kept its turn"
    assert not set(children()) - before


def stop_once(condition: Callable[[], bool]) -> None:
    """Send SIGINT to this process once the condition holds, as Ctrl-C does."""
    eventually(condition, 60)
    os.kill(os.getpid(), signal.SIGINT)


DYING = """\
import pathlib, sys
here = pathlib.Path(sys.argv[1])
here.touch()
with open("deaths", "a") as out:
    out.write("x")
print("out of luck")
raise SystemExit(3)
"""


@pytest.mark.long
def test_fifth_death_in_a_row_stops_all_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    told: list[str] = []
    before = set(children())
    supervisor = Supervisor(tmp_path / "logs", lambda name, line: None, told.append)
    with (
        pytest.raises(
            ProgramFailed,
            match=r"(?s)worker stopped unexpectedly \(exit code 3\), for the 5th time.*out of luck.*worker\.log",
        ),
        supervisor,
    ):
        supervisor.start(program("broker"))
        # Without start(), which would notice the death: wait() has to find it.
        supervisor._running.append(supervisor._begin(program("worker", DYING)))
        supervisor.wait()

    assert Path("deaths").read_text() == "x" * 5
    assert len([each for each in told if "restarting it" in each]) == 4
    assert Path("stopped").read_text().split() == ["broker"]
    assert not set(children()) - before


@pytest.mark.long
def test_deaths_after_a_steady_run_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "STEADY_SECONDS", 0.0)
    told: list[str] = []
    supervisor = Supervisor(tmp_path / "logs", lambda name, line: None, told.append)
    with supervisor:
        supervisor._running.append(supervisor._begin(program("worker", DYING)))
        stopping = threading.Thread(
            target=stop_once, args=(lambda: Path("deaths").exists() and len(Path("deaths").read_text()) > 7,)
        )
        stopping.start()
        supervisor.wait()
    stopping.join()
    assert len(Path("deaths").read_text()) > 7


@pytest.mark.long
def test_restarted_program_that_never_answers_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    told: list[str] = []
    answers = [True]
    supervisor = Supervisor(tmp_path / "logs", lambda name, line: None, told.append)
    before = set(children())
    with pytest.raises(ProgramFailed, match=r"\(killed by SIGKILL\), for the 5th time in a row"), supervisor:
        supervisor.start(program("worker", ready=lambda: bool(answers), seconds=0.2))
        answers.clear()
        (process,) = set(children()) - before
        process.kill()
        supervisor.wait()
    assert told.count("worker does not answer, and was killed") == 4
    assert not set(children()) - before


@pytest.mark.long
def test_program_that_never_answers_fails_to_start(supervisor: Supervisor) -> None:
    with pytest.raises(ProgramFailed, match=r"worker did not answer within 0\.3 s"), supervisor:
        supervisor.start(program("worker", ready=lambda: False, seconds=0.3))


@pytest.mark.long
def test_a_program_that_does_not_stop_is_killed(supervisor: Supervisor) -> None:
    before = set(children())
    with supervisor:
        supervisor.start(program("worker", STUBBORN))
        asked = time.monotonic()

    assert time.monotonic() - asked < 3 * PATIENCE
    assert not set(children()) - before


@pytest.mark.long
def test_second_signal_ends_the_wait_for_programs(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS_MAX", 3600)
    with supervisor:
        supervisor.start(
            Program(
                "worker",
                [sys.executable, "-c", STUBBORN, "worker"],
                dict(os.environ),
                Path("worker").exists,
                stop_seconds=3600,
            )
        )
        asked = time.monotonic()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopAsked):
            supervisor.check()

    assert time.monotonic() - asked < 4 * PATIENCE


def test_program_runs_in_its_own_session(supervisor: Supervisor) -> None:
    before = set(children())
    with supervisor:
        supervisor.start(program("worker"))
        (process,) = set(children()) - before
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl(2)")
def test_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    own = f"""\
import os, pathlib, sys
from publisher.cli import supervisor as module
from publisher.cli.supervisor import Program, Supervisor
code = {SLEEP!r}
with Supervisor(pathlib.Path("logs"), lambda name, line: None) as supervisor:
    command = [sys.executable, "-c", code, "worker"]
    supervisor.start(Program("worker", command, os.environ, pathlib.Path("worker").exists))
    pathlib.Path("up").touch()
    supervisor.wait()
"""
    with subprocess.Popen([sys.executable, "-c", own]) as process:
        try:
            assert eventually(Path("up").exists)
            (child,) = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()

    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
