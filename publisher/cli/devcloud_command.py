"""`publisher devcloud`: run a real Keystone and Glance on this machine, to publish to."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from publisher.cli.command import Json, err, examples, print_json, read_settings, say
from publisher.core.closed_pipe import no_outcome
from publisher.core.errors import PublisherError

if TYPE_CHECKING:
    from publisher.devcloud.cloud import DevCloud

commands = typer.Typer()
app = typer.Typer(help="Run a real Keystone and Glance on this machine, for trials.", no_args_is_help=True)
commands.add_typer(app, name="devcloud")

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
VENV_VARIABLE = "PUBLISHER_DEVCLOUD_VENV"
_DIRECTORY = "PUBLISHER_DATA_DIR"


class DevCloudFailed(PublisherError):
    """The development cloud could not do it."""


@app.command(epilog=examples("devcloud up", "devcloud up --host devcloud --stay"))
def up(
    host: Annotated[
        str,
        typer.Option(
            help="Address or host name of this machine for a new cloud to listen on and to name in its catalog."
        ),
    ] = "127.0.0.1",
    stay: Annotated[bool, typer.Option("--stay", help="Wait for Ctrl-C or SIGTERM, then stop the cloud.")] = False,
) -> None:
    """Start the cloud and wait until it answers. The first start installs it, which takes a minute or two."""
    with _cloud() as cloud:
        cloud.up(say=lambda words: say(words, console=err), host=host)
        say(f'Login for it: {_command("env")}    (load it into this shell: eval "$(…)")')
        if stay:
            _wait_for_a_stop()
            cloud.down()


@app.command(epilog=examples("devcloud install"))
def install() -> None:
    """Install Keystone and Glance without starting them."""
    with _cloud() as cloud:
        cloud.install(say=lambda words: say(words, console=err))
    say("Keystone and Glance are installed")


@app.command(epilog=examples("devcloud down"))
def down() -> None:
    """Stop the cloud. Its data is kept."""
    with _cloud() as cloud:
        cloud.down()
    say("The development cloud is stopped")


@app.command(epilog=examples("devcloud env", "devcloud env --json"))
def env(
    user: Annotated[str, typer.Option(help="User of the cloud.")] = "uploader",
    as_json: Json = False,
) -> None:
    """Print the OS_… variables of an account in the cloud, with its password.

    To set them in this shell: eval "$(publisher devcloud env)"
    """
    with _cloud() as cloud:
        variables = cloud.env(user)
    if as_json:
        print_json(variables)
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command(epilog=examples("devcloud status"))
def status(as_json: Json = False) -> None:
    """Show whether the cloud runs. The exit code is 1 if it does not."""
    with _cloud() as cloud:
        running = cloud.running()
        keystone, glance = (cloud.keystone_url, cloud.glance_url) if running else (None, None)
    with no_outcome():
        if as_json:
            print_json({"running": running, "keystone_url": keystone, "glance_url": glance})
        elif running:
            say(f"Running: Keystone {keystone}/v3, Glance {glance}")
        else:
            say("Not running; start it: publisher devcloud up")
    raise typer.Exit(0 if running else 1)


def _wait_for_a_stop() -> None:
    # Block signals only now: the servers that were started would inherit the block.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    signal.sigwait(_STOP_SIGNALS)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _cloud() -> Iterator[DevCloud]:
    from publisher.devcloud.cloud import DevCloud
    from publisher.devcloud.config import DevCloudError

    data_dir = read_settings().data_dir
    try:
        yield DevCloud(data_dir / "devcloud", _environment(data_dir))
    except DevCloudError as error:
        raise DevCloudFailed(str(error)) from None


def _environment(data_dir: Path) -> Path:
    """Return the virtual environment of Keystone and Glance: the one that the variable names, else `.venv-devcloud`
    beside our own if it exists (`make demo` and `make test` put it there), else one in the data directory."""
    if named := os.environ.get(VENV_VARIABLE):
        return Path(named)
    beside = Path(sys.prefix).with_name(".venv-devcloud")
    return beside if beside.is_dir() else data_dir / "devcloud-venv"


def _command(name: str) -> str:
    """Return the shell command that acts on this installation."""
    directory = os.environ.get(_DIRECTORY)
    where = f"{_DIRECTORY}={shlex.quote(directory)} " if directory else ""
    return f"{where}publisher devcloud {name}"
