"""The virtual environment of Keystone and Glance. It is not ours, because its pinned versions differ."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import TextIO

from publisher.devcloud.config import DevCloudError

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
REQUIREMENTS = ("keystone", "glance", "uwsgi", "python-openstackclient")
STAMP = "publisher-devcloud.stamp"
INSTALL_LIMIT_SECONDS = 1800

_UNFINISHED = "unfinished"
_COMPILER_HINT = "uWSGI needs a C compiler: apt-get install gcc python3-dev"


def ready(venv: Path) -> bool:
    """Return whether the environment is complete and has exactly the versions of our constraints."""
    if not (venv / "bin" / "python").exists():
        return False
    stamp = _stamp(venv)
    return stamp == digest() if stamp is not None else _holds_the_pins(venv)


def install(venv: Path, say: Callable[[str], None]) -> None:
    """Create the environment. Replaces one of ours that is incomplete or out of date.

    Scripts in an environment contain its absolute path, so it cannot be created elsewhere and moved. It is created in
    place, with a stamp that says "unfinished" until the last step.

    Raises DevCloudError if pip fails, or if the directory exists and is not ours to replace.
    """
    if ready(venv):
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(f"{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clouds may share an environment
        if not ready(venv):
            _make(venv, say)


def _make(venv: Path, say: Callable[[str], None]) -> None:
    if venv.exists():
        if _stamp(venv) is None and any(venv.iterdir()):
            raise DevCloudError(
                f"{venv} exists and is not an environment for the development cloud: name another directory, "
                "or remove this one"
            )
        say(f"{venv} is half-made or out of date: making it anew")
        shutil.rmtree(venv)
    venv.mkdir()
    (venv / STAMP).write_text(f"{_UNFINISHED}\n")
    log = venv / "install.log"
    say(f"Installing Keystone and Glance into {venv}: a minute or two")
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, "-m", "venv", str(venv)]
        made = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if made.returncode != 0:
        raise DevCloudError(f"python -m venv failed (on Debian: apt-get install python3-venv); read {log}")
    _pip_install(venv, log, say)
    (venv / STAMP).write_text(f"{digest()}\n")


def _pip_install(venv: Path, log: Path, say: Callable[[str], None]) -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "-c", str(CONSTRAINTS), *REQUIREMENTS]
    with (
        log.open("a", encoding="utf-8") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        limit = threading.Timer(INSTALL_LIMIT_SECONDS, pip.kill)
        limit.daemon = True
        limit.start()
        try:
            assert pip.stdout is not None  # noqa: S101  (asked for with PIPE)
            for words in _milestones(_copied(pip.stdout, out)):
                say(words)
            pip.wait()
        except BaseException:
            pip.kill()
            raise
        finally:
            limit.cancel()
    if pip.returncode != 0:
        raise DevCloudError(_why_pip_failed(log))


def _copied(lines: Iterable[str], out: TextIO) -> Iterator[str]:
    for line in lines:
        out.write(line)
        yield line


def _milestones(lines: Iterable[str]) -> Iterator[str]:
    """Yield progress messages, selected from pip's hundreds of lines."""
    pins = len(_pins())
    collected = 0
    for line in lines:
        if line.startswith("Collecting "):
            collected += 1
            if collected % 25 == 0:
                yield f"  {collected} of about {pins} packages fetched"
        elif line.lstrip().startswith("Building wheel for ") and ": started" in line:
            yield f"  building {line.split()[3]}"
        elif line.startswith("Installing collected packages"):
            yield "  unpacking"


def _why_pip_failed(log: Path) -> str:
    said = log.read_text(encoding="utf-8", errors="replace")
    no_compiler = not any(map(shutil.which, ("cc", "gcc", "clang")))
    if no_compiler or "Python.h" in said or "you need a C compiler" in said:
        return f"pip could not install Keystone and Glance. {_COMPILER_HINT}. Read {log}"
    return f"pip could not install Keystone and Glance: check the network and the package index, read {log}"


def digest() -> str:
    """Return a hash of the versions in our constraints."""
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def _stamp(venv: Path) -> str | None:
    try:
        return (venv / STAMP).read_text().strip()
    except OSError:
        return None


def _pins() -> dict[str, str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==", 1) for line in lines if "==" in line)
    return {_normal(name): version.strip() for name, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _holds_the_pins(venv: Path) -> bool:
    """Return whether a foreign environment will do: it must have all that we need, in the pinned versions."""
    places = [str(place) for place in venv.glob("lib/python3*/site-packages")]
    installed = {_normal(found.name): found.version for found in distributions(path=places)}
    return all(installed.get(name) == version for name, version in _pins().items())
