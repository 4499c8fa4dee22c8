"""`publisher doctor` and `config`: check an installation and suggest fixes; show its settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from publisher.cli.command import Json, examples, open_store, open_vault, out, print_json, print_table, say_warning
from publisher.cli.programs import ping_workers
from publisher.core.closed_pipe import no_outcome
from publisher.core.errors import PublisherError, QueueUnavailable
from publisher.core.settings import Settings
from publisher.core.settings_reader import Reading, variable
from publisher.core.settings_report import Source, in_force, only_for_a_trial, table, unknown

commands = typer.Typer()

_PING_SECONDS = 1.0
_LOAD_SECONDS = 60.0
_LOAD = """\
import sys
from importlib.metadata import entry_points
for entry in entry_points(group=sys.argv[1], name=sys.argv[2]):
    entry.load()
"""


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


@commands.command(epilog=examples("doctor", "doctor --json"))
@no_outcome()
def doctor(as_json: Json = False) -> None:
    """Check this installation and suggest fixes.

    The exit code is 1 if a check fails.
    """
    findings: list[Finding] = []
    for finding in _findings(Settings.examine()):
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


def _findings(reading: Reading[Settings]) -> Iterator[Finding]:
    yield from check_settings(reading)
    invalid = {name for each in reading.problems for name in each.names}
    for check in CHECKS:
        name, needed = _NEEDED.get(check, ("", frozenset()))
        if missing := sorted(needed & invalid):
            advice = "correct the settings, then run this again"
            yield Finding(name, Level.WARN, f"not checked: it needs {', '.join(map(variable, missing))}", advice)
        else:
            yield from check(reading.settings)


def check_settings(reading: Reading[Settings]) -> Iterator[Finding]:
    for problem in reading.problems:
        yield Finding("settings", Level.FAIL, problem.message, "correct it, or remove it to use the default")
    wrong = [*unknown(), *(only_for_a_trial(reading.settings) if reading.settings.production else ())]
    for each in wrong:
        yield Finding("settings", Level.WARN, each.problem, each.advice)
    if not wrong and not reading.problems:
        yield Finding("settings", Level.OK, "all values are valid, and each variable is a setting")


def check_database(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import make_url

    if not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        # Opening it would create an empty one.
        yield Finding(
            "database", Level.FAIL, f"there is no database in {settings.data_dir} yet", "run: publisher migrate"
        )
        return
    try:
        with open_store(settings) as store:
            backend = make_url(settings.database).get_backend_name()
            users = len(store.users.list())
    except PublisherError as error:
        yield Finding("database", Level.FAIL, str(error), "check PUBLISHER_DATABASE_URL and PUBLISHER_DATA_DIR")
        return
    yield Finding("database", Level.OK, f"{backend}, with the tables of this version")
    if not users:
        yield Finding("users", Level.WARN, "there are no users yet", "run: publisher users add root --admin")


def check_broker(settings: Settings) -> Iterator[Finding]:
    from publisher.core.broker import Broker
    from publisher.services.wakeups import WakeQueue

    broker, queue = Broker.of(settings), WakeQueue.open(settings)
    if broker.uses_tls and not broker.verify:
        advice = "remove PUBLISHER_BROKER_TLS_VERIFY; for a private authority, set PUBLISHER_BROKER_CA_FILE"
        yield Finding("broker TLS", Level.WARN, broker.trust, advice)
    elif broker.uses_tls:
        yield Finding("broker TLS", Level.OK, broker.trust)
    try:
        queue.check()
    except QueueUnavailable as error:
        advice = (
            "check PUBLISHER_BROKER_URL, and whether the broker runs"
            if settings.broker_url
            else "start it: publisher up"
        )
        yield Finding("broker", Level.FAIL, f"{error}; tickets wait until it can be reached", advice)
    else:
        yield Finding("broker", Level.OK, "answers" if settings.broker_url else "the embedded Redis answers")
    finally:
        queue.close()


def check_key(settings: Settings) -> Iterator[Finding]:
    if not settings.key_file.exists():
        advice = "start publisher up, which creates it; if you have a key elsewhere, set PUBLISHER_SECRET_KEY_FILE"
        yield Finding("key", Level.FAIL, f"{settings.key_file} does not exist", advice)
        return
    try:
        open_vault(settings)
    except PublisherError as error:
        yield Finding("key", Level.FAIL, str(error), "restore the right key file")
    else:
        yield Finding("key", Level.OK, f"{settings.key_file}, which only you can read")


def check_image_root(settings: Settings) -> Iterator[Finding]:
    root = settings.images
    if not root.exists():
        yield Finding(
            "images", Level.WARN, f"{root} does not exist yet", "add an image, which creates it: publisher images add"
        )
    elif not root.is_dir():
        yield Finding("images", Level.FAIL, f"{root} is not a directory", "set PUBLISHER_IMAGE_ROOT to a directory")
    elif not os.access(root, os.R_OK | os.X_OK):
        yield Finding("images", Level.FAIL, f"{root} cannot be read", f"allow {_me()} to read it")
    elif not os.access(root, os.W_OK):
        yield Finding(
            "images",
            Level.WARN,
            f"{root} is read-only: no image can be registered here",
            f"allow {_me()} to write to it",
        )
    else:
        yield Finding("images", Level.OK, str(root))


def check_disk(settings: Settings) -> Iterator[Finding]:
    from publisher.services.health import disk_check

    found = disk_check(settings)
    if found.wrong is None:
        yield Finding("disk", Level.OK, "enough free space for tickets and images")
    else:
        advice = "free some space, or move the data directory or PUBLISHER_IMAGE_ROOT to a larger disk"
        yield Finding("disk", Level.FAIL, found.wrong, advice)


def check_scratch(settings: Settings) -> Iterator[Finding]:
    """Check the space for the files that workers make of images."""
    from publisher.services.health import disk_shortage

    if short := disk_shortage(settings, settings.scratch):
        advice = "free some space, or move PUBLISHER_SCRATCH_DIR to a larger disk"
        yield Finding("scratch", Level.WARN, f"{short}; no image can be converted for a cloud that needs it", advice)
    else:
        limit = f"at most {settings.scratch_bytes_max >> 20} MiB"
        yield Finding("scratch", Level.OK, f"converted images go to {settings.scratch}, {limit}")


def check_permissions(settings: Settings) -> Iterator[Finding]:
    """Check file modes: older versions left them to the umask."""
    wanted = {settings.data_dir: 0o700} | dict.fromkeys((settings.data_dir / "publisher.db",), 384)
    loose = [(path, mode) for path, mode in wanted.items() if path.exists() and path.stat().st_mode & 0o077]
    for path, mode in loose:
        yield Finding("permissions", Level.WARN, f"other users can read {path}", f"run: chmod {mode:o} {path}")
    if not loose:
        yield Finding("permissions", Level.OK, "only the owner can read the data directory")


def check_plugins(settings: Settings) -> Iterator[Finding]:
    """Load each plugin in a process of its own, all at the same time: the command line itself loads no cloud SDK."""
    from publisher.platforms.platform import PLUGIN_GROUP, installed

    names = installed()
    if not names:
        yield Finding("plugins", Level.FAIL, "no plugin is installed", "reinstall image-publisher")
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
            yield Finding(
                f"plugin {name}",
                Level.FAIL,
                f"does not load: {reason}",
                "install the package that is missing, or reinstall the plugin",
            )


def check_proxy(settings: Settings) -> Iterator[Finding]:
    """Connect to the proxy that workers use, if there is one. Shows no login."""
    from publisher.outbound.policy import EVERYWHERE, OutboundPolicy

    policy = OutboundPolicy.of(settings)
    if policy.proxy is None:
        return
    proxy = policy.proxy
    try:
        EVERYWHERE.connect(proxy.host, proxy.port, settings.connect_timeout_seconds).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        advice = "check PUBLISHER_HTTP_PROXY, and whether the proxy runs"
        yield Finding("proxy", Level.FAIL, f"{proxy.where} cannot be reached: {reason}", advice)
        return
    resolves = f"{proxy.where} answers; it resolves host names itself"
    if policy.open:
        yield Finding("proxy", Level.OK, resolves)
    else:
        message = f"{resolves}, so the rules for outbound connections cannot be enforced here for all hosts"
        yield Finding("proxy", Level.WARN, message, "have the proxy refuse the addresses that callers must not reach")


def check_workers(settings: Settings) -> Iterator[Finding]:
    advice = "start one: publisher up, or publisher worker"
    try:
        found = ping_workers(settings, timeout_seconds=_PING_SECONDS)
    except QueueUnavailable:
        yield Finding("worker", Level.WARN, "unknown, because the broker cannot be reached", advice)
        return
    if found:
        yield Finding("worker", Level.OK, f"{', '.join(found)} answers" if len(found) == 1 else ", ".join(found))
    else:
        yield Finding("worker", Level.WARN, "no worker answers; tickets wait", advice)


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    check_database,
    check_broker,
    check_key,
    check_image_root,
    check_disk,
    check_scratch,
    check_permissions,
    check_plugins,
    check_proxy,
    check_workers,
)
_BROKER = frozenset(("data_dir", "broker_url", "broker_ca_file", "broker_tls_verify", "send_timeout_seconds"))
_NEEDED: Mapping[Callable[[Settings], Iterator[Finding]], tuple[str, frozenset[str]]] = {
    check_database: ("database", frozenset(("data_dir", "database_url"))),
    check_broker: ("broker", _BROKER),
    check_key: ("key", frozenset(("data_dir", "secret_key_file"))),
    check_image_root: ("images", frozenset(("data_dir", "image_root"))),
    check_disk: ("disk", frozenset(("data_dir", "database_url", "image_root", "disk_free_bytes_min"))),
    check_scratch: ("scratch", frozenset(("data_dir", "scratch_dir", "scratch_bytes_max", "disk_free_bytes_min"))),
    check_permissions: ("permissions", frozenset(("data_dir",))),
    check_proxy: ("proxy", frozenset(("http_proxy", "no_proxy", "outbound_allow", "outbound_deny"))),
    check_workers: ("worker", _BROKER),
}
"""The name of a check, and the settings that it needs: with a default, it would examine another installation."""


def _print(finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.level.value:<5}", _STYLES[finding.level]), (f"{finding.name:<18}", "bold"), finding.message
    )
    out.print(line, soft_wrap=True)
    if finding.advice:
        out.print(Text(f"{'':<23}{finding.advice}"), soft_wrap=True)


def _me() -> str:
    return f"user {os.getuid()}"


# Settings -----------------------------------------------------------------------------------------


@commands.command(epilog=examples("config", "config --changed", "config --json", "config --docs"))
def config(
    changed: Annotated[bool, typer.Option("--changed", help="Leave out settings that use their defaults.")] = False,
    docs: Annotated[
        bool, typer.Option("--docs", help="Print a Markdown table of all settings, as in the documentation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in force and the source of each.

    Passwords in URLs are hidden. Variables that look like settings but are not cause a warning.
    """
    if docs:
        typer.echo(table(), nl=False)
        return
    shown = [each for each in in_force(Settings.from_environment()) if not changed or each.source is not Source.DEFAULT]
    wrong = unknown()
    if as_json:
        print_json({"settings": [asdict(each) for each in shown], "unknown": [asdict(each) for each in wrong]})
        return
    print_table(["Variable", "Value", "From"], [[each.variable, each.value, each.source] for each in shown])
    for each in wrong:
        say_warning(each.message)
