"""The README's commands work unchanged and in order, with a real installation and a real cloud."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.images import write_qcow2
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance
from tests.installation import Installation, running
from tests.servers import missing
from tests.servers.process import free_port
from tests.servers.redis import find_redis
from tests.stack import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    """Return each block as a script. A line with `$` begins a command, and the other lines continue it."""
    return ["\n".join(line.removeprefix("$ ") for line in found.splitlines()) for found in FENCE.findall(README)]


def test_every_block_consists_of_commands() -> None:
    for found in FENCE.findall(README):
        assert found.startswith("$ "), found
    assert len(blocks()) >= 8


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.own_cloud
def test_commands_of_the_readme_work_unchanged(tmp_path: Path, devcloud: DevCloud, glance: Glance) -> None:
    if find_redis() is None:
        missing("redis-server")
    quick_start, service, *rest = blocks()
    # These two commands have tests of their own, and take minutes.
    assert [line.split("  ")[0] for line in quick_start.splitlines()] == ["make demo", "make test"]
    assert service.splitlines()[1].startswith("publisher up")
    home = tmp_path / "home"
    installation = Installation(home / ".local/share/image-publisher", free_port(), free_port())
    made_by_the_demo(tmp_path)
    # The cloud runs already: `devcloud up` finds it.
    installation.directory.mkdir(parents=True)
    (installation.directory / "devcloud").symlink_to(devcloud.directory)
    script = "\n".join(["set -euo pipefail", *rest]).replace("127.0.0.1:8000", f"127.0.0.1:{installation.intake_port}")
    environment = installation.environment | {
        "HOME": str(home),
        "PUBLISHER_DEVCLOUD_VENV": os.environ.get("PUBLISHER_DEVCLOUD_VENV", str(REPOSITORY / ".venv-devcloud")),
    }
    # The commands name no directory: they use the usual one.
    del environment["PUBLISHER_DATA_DIR"]

    with running(installation, "--no-flower") as up:
        followed = subprocess.run(
            [shutil.which("bash") or "bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert followed.returncode == 0, followed.stdout + followed.stderr + up.said
        assert followed.stdout.count("is published to openstack as") == 2
        assert "works   sign in" in followed.stdout
        # Once from a file, once with the stored account, once over the API.
        published = [line.split("\t") for line in installation.run("tickets", "list").stdout.splitlines()]
        assert [(row[0], row[5]) for row in published] == [("3", "published"), ("2", "published"), ("1", "published")]
        assert followed.stdout.rstrip().endswith(published[0][6])
    assert {each["name"] for each in glance.images()} >= {"My image", "web"}


def made_by_the_demo(directory: Path) -> None:
    """Create the files that `make demo` leaves, with a smaller disk."""
    (directory / ".venv").mkdir()
    (directory / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    disk = directory / ".demo" / "images" / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    write_qcow2(disk, virtual_size=64 << 20, data_bytes=4 << 20, seed=4)
