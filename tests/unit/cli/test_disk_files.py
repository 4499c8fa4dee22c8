"""Disk files that the command line registers and publishes."""

from __future__ import annotations

import pytest
from typer.testing import Result

from tests import disks
from tests.command import Cli
from tests.image_cases import ACCEPTED_ON_THE_WAY_IN, REFUSED, ImageCase

ACCOUNT = ("--keystone-url", "https://cloud.example:5000", "--login", "x", "--project", "p")


def register_and_publish(cli: Cli, case: ImageCase) -> list[Result]:
    file = cli.image_file(case.name, case.content)
    commands = (("images", "add", file, "--appliance", "4"), ("publish", file, "--platform", "memory"))
    return [cli.run(*arguments, OS_PASSWORD="secret") for arguments in commands]


@pytest.mark.long
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_file_is_not_registered(cli: Cli, case: ImageCase) -> None:
    for result in register_and_publish(cli, case):
        assert result.exit_code == 2, result.output
        assert all(part in " ".join(result.stderr.split()) for part in case.refused), result.stderr
    assert cli.json("images", "list")["images"] == []


@pytest.mark.parametrize("case", ACCEPTED_ON_THE_WAY_IN, ids=lambda case: case.name)
def test_a_file_is_registered_with_its_format_and_size(cli: Cli, case: ImageCase) -> None:
    for result in register_and_publish(cli, case):
        assert result.exit_code == 0, result.output
    found = cli.json("images", "list")["images"]
    assert [(each["disk_format"], each["virtual_size_bytes"]) for each in found] == [
        (case.disk_format, case.virtual_size)
    ] * 2


def test_image_warning_is_shown_when_added_and_listed(cli: Cli) -> None:
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


def test_format_that_glance_refuses_is_not_published_to_openstack(cli: Cli) -> None:
    file = cli.image_file("win.vhd", disks.vhd_fixed())
    result = cli.run("publish", file, *ACCOUNT, OS_PASSWORD="secret")
    assert result.exit_code == 2, result.output
    assert "win.vhd cannot be published to openstack: Glance does not recognise a VHD of fixed size" in result.stderr
    assert cli.json("images", "list") == {"images": []}
    added = cli.run("images", "add", file, "--appliance", 4)
    assert (added.exit_code, "Image 1 cannot be published to OpenStack" in added.stderr) == (0, True)
    result = cli.run("publish", 1, *ACCOUNT, OS_PASSWORD="secret")
    assert (result.exit_code, "image 1 (win) cannot be published to openstack" in result.stderr) == (2, True)
