"""Disk files that the command line registers and publishes."""

from __future__ import annotations

import pytest

from tests import disks
from tests.command import Cli
from tests.image_cases import SENT, ImageCase

ACCOUNT = ("--keystone-url", "https://cloud.example:5000", "--login", "x", "--project", "p")


@pytest.mark.parametrize("case", SENT, ids=lambda case: case.name)
def test_files_from_outside(cli: Cli, case: ImageCase) -> None:
    file = cli.image_file(case.name, case.content)
    for arguments in (("images", "add", file, "--appliance", "4"), ("publish", file, "--platform", "memory")):
        result = cli.run(*arguments, OS_PASSWORD="secret")
        assert result.exit_code == (2 if case.refused else 0), result.output
        assert all(part in " ".join(result.stderr.split()) for part in case.refused), result.stderr
    found = cli.json("images", "list")["images"]
    expected = [] if case.refused else [(case.disk_format, case.virtual_size)] * 2
    assert [(each["disk_format"], each["virtual_size_bytes"]) for each in found] == expected


def test_a_warning_is_shown(cli: Cli) -> None:
    file = cli.image_file("disk.img", b"eleven byte")
    refused = cli.run("images", "add", file, "--appliance", 4)
    assert (refused.exit_code, "say so by the format 'raw'" in refused.stderr) == (2, True)
    added = cli.run("images", "add", file, "--appliance", 4, "--format", "raw")
    assert added.exit_code == 0, added.output
    words = "Image 1: No partition table, boot sector or file system was found"
    assert words in added.stderr
    assert words in cli.run("images", "list").stderr
    (image,) = cli.json("images", "list")["images"]
    assert image["warning"].startswith("No partition table")


def test_what_glance_refuses_is_registered_by_nobody_who_publishes_it_there(cli: Cli) -> None:
    file = cli.image_file("win.vhd", disks.vhd_fixed())
    result = cli.run("publish", file, *ACCOUNT, OS_PASSWORD="secret")
    assert result.exit_code == 2, result.output
    assert "win.vhd cannot be published to openstack: Glance does not recognise a VHD of fixed size" in result.stderr
    assert cli.json("images", "list") == {"images": []}
    added = cli.run("images", "add", file, "--appliance", 4)
    assert (added.exit_code, "Image 1 cannot be published to OpenStack" in added.stderr) == (0, True)
    result = cli.run("publish", 1, *ACCOUNT, OS_PASSWORD="secret")
    assert (result.exit_code, "image 1 (win) cannot be published to openstack" in result.stderr) == (2, True)
