from __future__ import annotations

from tests.command import Cli


def test_appliance_is_added_with_its_fields_and_listed(cli: Cli) -> None:
    options = ["--name", "web", "--version", "2.1", "--distribution", "Debian 12", "--architecture", "arm64"]
    made = cli.json("appliances", "add", 4, *options, "--description", "a web server")
    assert made.pop("created").endswith("+00:00")
    assert made == {
        "id": 4,
        "uri": "users/root/appliances/4",
        "owner": "root",
        "name": "web",
        "version": "2.1",
        "description": "a web server",
        "distribution": "Debian 12",
        "architecture": "arm64",
        "images_bytes": 0,
    }
    cli.ok("images", "add", cli.image_file(content=b"x" * (1 << 20)), "--appliance", 4, "--format", "raw")
    (listed,) = cli.json("appliances", "list")["appliances"]
    assert (listed["id"], listed["name"], listed["images_bytes"]) == (4, "web", 1 << 20)
    assert cli.ok("appliances", "list") == "4\troot\tweb\t2.1\tDebian 12\tarm64\t1.0 MiB\n"
    assert cli.json("appliances", "list", "--user", "anna") == {"appliances": []}


def test_appliance_gets_the_next_free_number(cli: Cli) -> None:
    cli.ok("images", "add", cli.image_file(), "--appliance", 7)
    assert cli.ok("appliances", "add") == "Added the appliance 'appliance-8' of root, number 8\n"
    cli.ok("users", "add", "anna", "--password-stdin", input="x\n")
    assert cli.json("appliances", "add", "--user", "anna")["id"] == 1


def test_appliance_with_images_is_not_removed(cli: Cli) -> None:
    cli.ok("images", "add", cli.image_file(), "--appliance", 4)
    result = cli.run("appliances", "remove", 4, "--yes")
    assert result.exit_code == 2
    assert "still has images" in result.stderr
    cli.ok("appliances", "add", 5)
    assert cli.ok("appliances", "remove", 5, "--yes") == "Removed the appliance 5 of root\n"
    assert len(cli.json("appliances", "list")["appliances"]) == 1


def test_invalid_arguments_are_refused_with_a_reason(cli: Cli) -> None:
    cli.ok("appliances", "add", 4)
    for arguments, words in (
        (["add", 4], "root has an appliance 4 already"),
        (["add", "--user", "anna"], "there is no user 'anna'"),
        (["add", "--name", ""], "name: is needed: 1 to 255 characters"),
        (["add", 0], "id: 0 is too small; the smallest is 1"),
        (["remove", 9], "root has no appliance 9"),
        (["remove", 4, "--user", "anna"], "anna has no appliance 4"),
    ):
        result = cli.run("appliances", *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
