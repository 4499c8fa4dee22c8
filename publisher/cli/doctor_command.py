"""`publisher doctor`: check an installation and suggest fixes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import typer
from rich.text import Text

from publisher.cli.command import Json, examples, open_store, out, print_json
from publisher.cli.ping import ping_workers
from publisher.core.closed_pipe import no_outcome
from publisher.core.errors import PublisherError, QueueUnavailable
from publisher.core.settings import Settings
from publisher.core.settings_report import only_for_a_trial, unknown

_PING_SECONDS = 1.0
_LOAD_SECONDS = 60.0
_LOAD = """\
import sys
from importlib.metadata import entry_points
for entry in entry_points(group=sys.argv[1], name=sys.argv[2]):
    entry.load()
"""


EXAMPLES = examples("doctor", "doctor --json")


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` says how to fix a failure, if there is a way."""

    name: str
    level: Level
    message: str
    advice: str = ""


@no_outcome()
def doctor(as_json: Json = False) -> None:
    """Check this installation and suggest fixes.

    The exit code is 1 if a check fails.
    """
    settings = Settings.from_environment()
    findings: list[Finding] = []
    for check in CHECKS:
        for finding in check(settings):
            findings.append(finding)
            if not as_json:
                _print(finding)
    ok = all(finding.level is not Level.FAIL for finding in findings)
    if as_json:
        print_json(
            {
                "ok": ok,
                "checks": [
                    {"name": each.name, "level": each.level.value, "message": each.message, "advice": each.advice}
                    for each in findings
                ],
            }
        )
    raise typer.Exit(0 if ok else 1)


def check_settings(settings: Settings) -> Iterator[Finding]:
    wrong = [each.message for each in unknown()]
    wrong += only_for_a_trial(settings) if settings.production else []
    for words in wrong:
        message, _, advice = words.partition("; ")
        yield Finding("settings", Level.WARN, message, advice)
    if not wrong:
        yield Finding("settings", Level.OK, "each variable is one that is read")


def check_database(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import make_url

    if not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        # Opening it would create an empty one.
        yield Finding("database", Level.FAIL, f"there is none in {settings.data_dir} yet", "run: publisher migrate")
        return
    try:
        with open_store(settings) as store:
            backend = make_url(settings.database).get_backend_name()
            users = len(store.users.list())
    except PublisherError as error:
        yield Finding("database", Level.FAIL, str(error), "see PUBLISHER_DATABASE_URL and PUBLISHER_DATA_DIR")
        return
    yield Finding("database", Level.OK, f"{backend}, tables of this version")
    if not users:
        yield Finding("users", Level.WARN, "there is none", "run: publisher users add root --admin")


def check_broker(settings: Settings) -> Iterator[Finding]:
    from publisher.core.broker import Broker
    from publisher.services.wakeups import WakeQueue

    broker, queue = Broker.of(settings), WakeQueue.open(settings)
    if broker.uses_tls and not broker.verify:
        advice = "remove PUBLISHER_BROKER_TLS_VERIFY; name the authority of a private one with PUBLISHER_BROKER_CA_FILE"
        yield Finding("broker TLS", Level.WARN, broker.trust, advice)
    elif broker.uses_tls:
        yield Finding("broker TLS", Level.OK, broker.trust)
    try:
        queue.check()
    except QueueUnavailable as error:
        advice = "check PUBLISHER_BROKER_URL, and that it runs" if settings.broker_url else "start it: publisher up"
        yield Finding("broker", Level.FAIL, f"{error}; accepted tickets wait", advice)
    else:
        yield Finding("broker", Level.OK, "answers" if settings.broker_url else "the embedded Redis answers")
    finally:
        queue.close()


def check_key(settings: Settings) -> Iterator[Finding]:
    from publisher.core.vault import Vault

    if not settings.key_file.exists():
        advice = "publisher up makes one; one that is elsewhere is named with PUBLISHER_SECRET_KEY_FILE"
        yield Finding("key", Level.FAIL, f"there is no {settings.key_file}", advice)
        return
    try:
        Vault.from_file(settings.key_file)
    except PublisherError as error:
        yield Finding("key", Level.FAIL, str(error), "put the right key file in its place")
    else:
        yield Finding("key", Level.OK, f"{settings.key_file}, readable by you alone")


def check_image_root(settings: Settings) -> Iterator[Finding]:
    root = settings.images
    if not root.exists():
        yield Finding("images", Level.WARN, f"there is no {root} yet", "the first `publisher images add` makes it")
    elif not root.is_dir():
        yield Finding("images", Level.FAIL, f"{root} is not a directory", "see PUBLISHER_IMAGE_ROOT")
    elif not os.access(root, os.R_OK | os.X_OK):
        yield Finding("images", Level.FAIL, f"{root} cannot be read", f"give {_me()} leave to read it")
    elif not os.access(root, os.W_OK):
        yield Finding("images", Level.WARN, f"{root} cannot be written to", "images cannot be registered from here")
    else:
        yield Finding("images", Level.OK, str(root))


def check_disk(settings: Settings) -> Iterator[Finding]:
    from publisher.services.health import disk_check

    found = disk_check(settings)
    if found.wrong is None:
        yield Finding("disk", Level.OK, "there is free space for tickets and images")
    else:
        advice = "free some space, or put the data directory or PUBLISHER_IMAGE_ROOT on a larger disk"
        yield Finding("disk", Level.FAIL, found.wrong, advice)


def check_permissions(settings: Settings) -> Iterator[Finding]:
    """Check file modes: older versions left them to the umask."""
    wanted = {settings.data_dir: 0o700} | dict.fromkeys((settings.data_dir / "publisher.db",), 384)
    loose = [(path, mode) for path, mode in wanted.items() if path.exists() and path.stat().st_mode & 0o077]
    for path, mode in loose:
        yield Finding("permissions", Level.WARN, f"others may read {path}", f"run: chmod {mode:o} {path}")
    if not loose:
        yield Finding("permissions", Level.OK, "the data directory is for its owner alone")


def check_plugins(settings: Settings) -> Iterator[Finding]:
    """Load each plugin in a process of its own, all at the same time: the command line itself loads no cloud SDK."""
    from publisher.platforms.platform import PLUGIN_GROUP, installed

    names = installed()
    if not names:
        yield Finding("plugins", Level.FAIL, "there is none", "install image-publisher anew")
    loading = [
        (
            name,
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _LOAD, PLUGIN_GROUP, name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )
        for name in names
    ]
    for name, process in loading:
        try:
            _, errors = process.communicate(timeout=_LOAD_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        if process.returncode == 0:
            yield Finding(f"plugin {name}", Level.OK, "loads")
        else:
            reason = (errors.strip().splitlines() or ["no reason was given"])[-1]
            yield Finding(f"plugin {name}", Level.FAIL, f"does not load: {reason}", "install what it needs")


def check_workers(settings: Settings) -> Iterator[Finding]:
    advice = "start one: publisher up, or publisher worker"
    try:
        found = ping_workers(settings, timeout_seconds=_PING_SECONDS)
    except QueueUnavailable:
        yield Finding("worker", Level.WARN, "cannot be asked without a broker", advice)
        return
    if found:
        yield Finding("worker", Level.OK, f"{', '.join(found)} answers" if len(found) == 1 else ", ".join(found))
    else:
        yield Finding("worker", Level.WARN, "none answers; tickets wait", advice)


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    check_settings,
    check_database,
    check_broker,
    check_key,
    check_image_root,
    check_disk,
    check_permissions,
    check_plugins,
    check_workers,
)


def _print(finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.level.value:<5}", _STYLES[finding.level]), (f"{finding.name:<18}", "bold"), finding.message
    )
    out.print(line, soft_wrap=True)
    if finding.advice:
        out.print(Text(f"{'':<23}{finding.advice}"), soft_wrap=True)


def _me() -> str:
    return f"user {os.getuid()}"
