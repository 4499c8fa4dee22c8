"""The runner of `make test`: it leaves no process behind, and its last lines list the failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.installation import alive
from tests.servers import missing
from tests.stack import REPOSITORY, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl(2)"),
]

SERVER = """\
import os, pathlib, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.setsid()
if os.fork():
    pathlib.Path(f"{os.getpid()}.pid").touch()
else:  # a daemon, as epmd and uWSGI have them
    os.setsid()
    if os.fork():
        os._exit(0)
    pathlib.Path(f"{os.getpid()}.pid").touch()
time.sleep(600)
"""
"""Two processes that signals to their parent's group do not reach, and that end only on SIGKILL."""

PROGRAM = f"""\
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SERVER!r}])
while len(list(__import__("pathlib").Path().glob("*.pid"))) < 2:
    time.sleep(0.01)
"""

RUNNER = """\
import sys
from tests.runner.__main__ import Part, run_parts
from tests.runner.processes import run, take_charge
take_charge()
patience = {{"grace_seconds": 0.5, "stop_seconds": 0.5}}
program = [sys.executable, "-c", {program!r}]
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """A list for the processes that the program starts. The fixture kills them at the end."""
    processes: list[psutil.Process] = []
    yield processes
    for each in processes:
        if alive(each):
            each.kill()


def script(directory: Path, program: str, rest: str) -> Path:
    made = directory / "run.py"
    made.write_text(RUNNER.format(program=program) + rest)
    return made


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)}


def servers(directory: Path) -> list[psutil.Process]:
    found = list(directory.glob("*.pid"))
    return [psutil.Process(int(each.stem)) for each in found] if len(found) == 2 else []


@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("make", signal.SIGTERM),
        ("make", signal.SIGKILL),
        ("all", signal.SIGTERM),
        ("all", signal.SIGINT),
        ("all", signal.SIGHUP),
        ("program", signal.SIGTERM),
        ("program", signal.SIGINT),
        ("program", signal.SIGKILL),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_interrupted_run_leaves_no_process_behind(
    tmp_path: Path, started: list[psutil.Process], to: str, number: signal.Signals
) -> None:
    make = shutil.which("make") or missing("make")
    forever = f"{PROGRAM}open('program', 'w').write(str(__import__('os').getpid()))\ntime.sleep(600)\n"
    run = script(tmp_path, forever, 'sys.exit(run_parts("all", [Part("a part", program)], **patience))\n')
    (tmp_path / "Makefile").write_text(f"all:\n\t@exec {sys.executable} {run}\n")
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [make], cwd=tmp_path, env=environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        said = (tmp_path / "out").read_text
        until(lambda: servers(tmp_path) and (tmp_path / "program").exists(), 300, said)
        started += servers(tmp_path)
        above = psutil.Process(process.pid).children(recursive=True)
        assert {each.pid for each in started} < {each.pid for each in above}
        match to:
            case "make":
                process.send_signal(number)
            case "all":
                os.killpg(process.pid, number)
            case "program":
                os.kill(int((tmp_path / "program").read_text()), number)
        until(lambda: not any(alive(each) for each in above), 300, said)
        assert process.wait(300) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    last = said().rstrip().splitlines()
    if number != signal.SIGKILL or to == "program":
        assert any(line.startswith("make all took ") and line.endswith(" FAILED: a part") for line in last), last


def test_leftover_process_is_ended_and_reported(tmp_path: Path) -> None:
    rest = "print(run(program, {}, **patience))\n"
    done = subprocess.run(
        [sys.executable, script(tmp_path, PROGRAM, rest)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("Outcome(code=0, left=[")
    ids = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert len(ids) == 2
    for id in ids:
        assert f"(process {id})" in done.stdout
        assert not psutil.pid_exists(id)


def test_last_lines_list_the_failures(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert not 1\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError\n"
        "def test_without_its_fixture(broken): pass\n"
    )
    (tmp_path / "test_two.py").write_text("import nothing.of_the_kind\n")
    (tmp_path / "test_three.py").write_text("def test_right(): pass\n")
    rest = """\
from tests.runner.__main__ import pytest
options = ("-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider", "-p", "xdist", "-n", "1")
parts = [Part(name, pytest(f"test_{name}.py", *options)) for name in ("one", "two", "three")]
sys.exit(run_parts("all", parts))
"""
    done = subprocess.run(
        [sys.executable, script(tmp_path, "", rest)],
        cwd=tmp_path, env=environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    one, *failed, two, second, three, verdict = done.stdout.splitlines()[-7:]
    assert one.startswith("one: FAILED after ")
    assert sorted(failed) == ["    test_one.py::test_without_its_fixture", "    test_one.py::test_wrong"]
    assert two.startswith("two: FAILED after ")
    assert second == "    test_two.py"
    assert three.startswith("three: passed in ")
    assert verdict.startswith("make all took ")
    assert verdict.endswith(" s and FAILED: one, two")


def test_failed_needed_part_stops_the_run(tmp_path: Path) -> None:
    rest = """\
parts = [Part("servers", ["false"], needed=True), Part("tests", ["touch", "ran"])]
sys.exit(run_parts("all", parts))
"""
    done = subprocess.run(
        [sys.executable, script(tmp_path, "", rest)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(" FAILED: servers")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("room", [True, False])
def test_temporary_files_are_in_memory_if_there_is_room(tmp_path: Path, room: bool) -> None:
    program = 'import pathlib, tempfile; pathlib.Path("used").write_text(tempfile.mkdtemp())'
    rest = f"""\
from tests.runner import __main__ as runner
runner.MEMORY, runner.ROOM_BYTES = runner.Path({str(tmp_path)!r}), 0 if {room} else 1 << 60
sys.exit(run_parts("all", [Part("a part", [sys.executable, "-c", {program!r}])]))
"""
    other = tmp_path / "other"
    other.mkdir()
    done = subprocess.run(
        [sys.executable, script(tmp_path, "", rest)],
        cwd=tmp_path, env=environment() | {"TMPDIR": str(other)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used = Path((tmp_path / "used").read_text())
    assert used.is_relative_to(other) is not room
    assert used.parent.name.startswith("tests-") is room
    assert used.exists() is not room
