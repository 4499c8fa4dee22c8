"""Publish two images to a real OpenStack cloud on this machine, through the intake, the queue and a worker.

The demonstration prints its main commands: curl posts the request, `publisher status --wait` follows the
ticket, and the `openstack` client downloads the image again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rich.console import Console
from rich.panel import Panel

from demo.images import DemoImageError, bootable_iso, pieces, write_qcow2

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = REPOSITORY / ".demo"
PUBLISHER = str(Path(sys.executable).parent / "publisher")
MIB = 1 << 20
QCOW2_BYTES = 256 * MIB
START_SECONDS = 90
console = Console(highlight=False)


class DemoFailed(Exception):
    """The demonstration did not complete."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep everything running at the end")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running")
    given = parser.parse_args()
    os.umask(0o077)
    HOME.mkdir(exist_ok=True)
    if given.stop:
        stop()
        return 0
    started = time.monotonic()
    stop(quiet=True)
    ended_well = False
    try:
        images, ports = demonstrate()
        if given.keep:
            look_next(ports)
        else:
            remove_from_cloud(images)
        ended_well = True
    except (DemoFailed, DemoImageError, subprocess.CalledProcessError) as error:
        console.print(f"[bold red]The demonstration failed:[/] {error}", markup=True)
    except KeyboardInterrupt:
        console.print("\nInterrupted")
    finally:
        if not (given.keep and ended_well):
            stop()
    if ended_well:
        if given.keep:
            console.print("It goes on running. Stop it with: [bold]make demo-stop[/]")
        else:
            console.print("It has stopped. To look around in it: [bold]make demo KEEP=1[/]")
        console.print(f"make demo took {time.monotonic() - started:.0f} s")
    return 0 if ended_well else 1


def demonstrate() -> tuple[list[str], Mapping[str, int]]:
    """Run the demonstration. Returns the ids of the images in the cloud, and the ports of the services by name."""
    step("A real OpenStack on this machine: Keystone and Glance (the first time they are installed: a minute or two)")
    publisher("devcloud", "up")
    cloud: dict[str, str] = json.loads(output(PUBLISHER, "devcloud", "env", "--json", "--user", "uploader"))
    step("The publisher: intake, worker, Redis, Flower")
    ports = start()
    images = {
        7: (bootable_iso(HOME / "images"), "ISO", "A bootable ISO"),
        8: (made_qcow2(), "qcow2", "A disk that boots, with 256 MiB of data"),
    }
    step("Two generated images go into the catalog")
    known = {each["id"]: each for each in json.loads(output(PUBLISHER, "images", "list", "--json"))["images"]}
    for number, (file, form, name) in images.items():
        if number not in known:
            publisher(
                "images", "add", str(file), "--user", "root", "--appliance", "4", "--id", str(number),
                "--format", form, "--name", name,
            )  # fmt: skip
    fetched = [publish_and_fetch_back(number, file, name, cloud, ports) for number, (file, _, name) in images.items()]
    step("Is the installation well?")
    publisher("doctor")
    step("What was registered, and what came back from Glance")
    for _, name, registered, came_back in fetched:
        console.print(f"  sha256 of {name}\n    registered {registered}\n    fetched    {came_back}")
        if registered != came_back:
            raise DemoFailed(f"{name}: what came back from Glance is not what was registered")
    console.print("  [green]both pairs match[/]")
    return [cloud_id for cloud_id, *_ in fetched], ports


def publish_and_fetch_back(
    number: int, file: Path, name: str, cloud: Mapping[str, str], ports: Mapping[str, int]
) -> tuple[str, str, str, str]:
    """Publish an image and fetch it back.

    Returns the id in the cloud, the image's name, the sha256 of what was registered, and that of what came back.
    """
    step(f"Publishing image {number}: {name}")
    request = HOME / f"publish-{number}.xml"
    request.write_text(request_xml(number, name, cloud))
    password = (HOME / "root.password").read_text().strip()
    url = f"http://127.0.0.1:{ports['intake']}/api/users/root/appliances/4/pimages"
    headers = ["-H", "Content-type: application/xml", "-H", "Accept: application/xml"]
    show("curl", "-u", "root:…", *headers, "--data-binary", f"@{request.relative_to(REPOSITORY)}", url)
    # curl reads the login from the standard input, so that it does not appear in the list of processes.
    curl = [shutil.which("curl") or "curl", "-sS", "--max-time", "30", "-K", "-", "-w", "\n%{http_code}"]
    answer = subprocess.run(
        [*curl, *headers, "--data-binary", f"@{request}", url],
        input=f'user = "root:{password}"\n',
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    body, _, status = answer.rpartition("\n")
    if status != "201":
        raise DemoFailed(f"the intake answered {status}: {body}")
    found = re.search(r"<uri>(users/root/appliances/4/images/\d+/pimages/(\d+))</uri>", body)
    if not found:
        raise DemoFailed(f"the answer holds no ticket: {body}")
    console.print(f"  201 Created: ticket {found[2]}, {found[1]}")
    publisher("status", found[2], "--wait")
    ticket: dict[str, Any] = json.loads(output(PUBLISHER, "status", found[2], "--json"))
    fetched = HOME / "fetched.img"
    show("openstack", "image", "save", "--file", "fetched.img", ticket["cloud_id"])
    openstack(cloud, "image", "save", "--file", str(fetched), ticket["cloud_id"])
    sums = sha256(file), sha256(fetched)
    fetched.unlink()
    return (ticket["cloud_id"], name, *sums)


def openstack(cloud: Mapping[str, str], *arguments: str) -> None:
    client = Path(os.environ.get("PUBLISHER_DEVCLOUD_VENV", HOME / "devcloud-venv")) / "bin" / "openstack"
    subprocess.run([str(client), *arguments], env=os.environ | dict(cloud), check=True, timeout=300)


def remove_from_cloud(images: Sequence[str]) -> None:
    """Delete the images, so that repeated demonstrations do not fill the disk."""
    cloud: dict[str, str] = json.loads(output(PUBLISHER, "devcloud", "env", "--json", "--user", "uploader"))
    openstack(cloud, "image", "delete", *images)


def request_xml(number: int, name: str, cloud: Mapping[str, str]) -> str:
    """Return the body of the request in the form of the publishing API."""
    said = {key: escape(value) for key, value in cloud.items()}
    return f"""\
<ns0:publishImage xmlns:ns0="http://www.usharesoft.com/uforge" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
                  xsi:type="ns0:PublishImageOpenStack">
  <imageUri>users/root/appliances/4/images/{number}</imageUri>
  <applianceUri>users/root/appliances/4</applianceUri>
  <credAccount xsi:type="ns0:CredAccountOpenStack">
    <targetPlatform><name>openstack</name></targetPlatform>
    <keystoneUrl>{said["OS_AUTH_URL"]}</keystoneUrl>
    <login>{said["OS_USERNAME"]}</login>
    <password>{said["OS_PASSWORD"]}</password>
    <keystoneVersion>v3</keystoneVersion>
  </credAccount>
  <keystoneDomain>{said["OS_PROJECT_DOMAIN_NAME"]}</keystoneDomain>
  <keystoneProject>{said["OS_PROJECT_NAME"]}</keystoneProject>
  <displayName>{escape(name)}</displayName>
  <publicImage>false</publicImage>
</ns0:publishImage>
"""


def made_qcow2() -> Path:
    """Return a qcow2 that holds the bootable ISO and random data. It is made once."""
    file = HOME / "images" / "disk.qcow2"
    if not file.exists():
        unfinished = file.with_suffix(".unfinished")
        iso = bootable_iso(HOME / "images")
        write_qcow2(unfinished, virtual_size=2048 * MIB, data_bytes=QCOW2_BYTES, seed=4, contents=pieces(iso))
        unfinished.rename(file)
    return file


# The publisher's own processes ------------------------------------------------------------------


def start() -> dict[str, int]:
    """Start `publisher up`, detached, and wait until it answers. Returns the ports that it listens on."""
    (HOME / "images").mkdir(exist_ok=True)
    ports = {"intake": usual_or_free(8000), "flower": usual_or_free(5555)}
    environment = os.environ | {
        "PUBLISHER_INTAKE_PORT": str(ports["intake"]),
        "PUBLISHER_FLOWER_PORT": str(ports["flower"]),
    }
    log = HOME / "up.log"
    with log.open("wb") as into:
        process = subprocess.Popen(
            [PUBLISHER, "up"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (HOME / "up.pid").write_text(str(process.pid))
    show("publisher", "up")
    deadline = time.monotonic() + START_SECONDS
    # It prints this once everything answers.
    while "Ctrl-C" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoFailed(f"`publisher up` did not start; the end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
    console.print(f"  the intake answers at http://127.0.0.1:{ports['intake']}/api/status")
    return ports


def stop(*, quiet: bool = False) -> None:
    """Stop everything that this or an earlier demonstration started."""
    pid_file = HOME / "up.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text())
        if is_ours(pid):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while is_ours(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        pid_file.unlink()
    if (HOME / "devcloud").exists():
        subprocess.run([PUBLISHER, "devcloud", "down"], check=False, capture_output=quiet)
    if not quiet:
        console.print("Everything is stopped")


def is_ours(pid: int) -> bool:
    """Return whether the process is our `publisher up`, and not a later process with the same number."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return PUBLISHER.encode() in command and b"up" in command and "State:\tZ" not in status_of(pid)
    except OSError:
        return False


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def usual_or_free(port: int) -> int:
    for wanted in (port, 0):
        try:
            with socket.create_server(("127.0.0.1", wanted)) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    raise DemoFailed("no free port on 127.0.0.1")


# What is shown --------------------------------------------------------------------------------


def step(words: str) -> None:
    console.print(f"\n[bold cyan]▶ {words}[/]")


def show(*command: str) -> None:
    console.print(f"  [dim]$ {shlex.join(command)}[/]", soft_wrap=True)


def publisher(*arguments: str) -> None:
    show("publisher", *arguments)
    done = subprocess.run([PUBLISHER, *arguments], check=False)
    if done.returncode:
        raise DemoFailed(f"`publisher {shlex.join(arguments)}` ended with {done.returncode}")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def look_next(ports: Mapping[str, int]) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['intake']}/api/status", timeout=5) as answer:
        assert answer.status == 200  # noqa: S101  # it has answered all the time
    console.print(
        Panel(
            f"Console    http://127.0.0.1:{ports['intake']}/console\n"
            f"           login root, password in {relative(HOME / 'root.password')}\n"
            f"API        http://127.0.0.1:{ports['intake']}/docs\n"
            f"Flower     http://127.0.0.1:{ports['flower']}\n"
            f"           login operator, password in {relative(HOME / 'flower.password')}\n"
            f"Terminal   export PUBLISHER_DATA_DIR=$PWD/{relative(HOME)}\n"
            "           .venv/bin/publisher top\n"
            "The cloud  .venv/bin/publisher devcloud env    (what to sign in there with)\n"
            "Docs       README.md, docs/",
            title="Where to look next",
            expand=False,
        )
    )


def relative(path: Path) -> Path:
    return path.relative_to(REPOSITORY)


if __name__ == "__main__":
    for tool in ("curl",):
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed for the demonstration: apt-get install {tool}")
    os.environ["PUBLISHER_DATA_DIR"] = str(HOME)
    sys.exit(main())
