from __future__ import annotations

import hashlib

from tests.command import Cli
from tests.compressed import COMPRESS


def test_image_is_copied_and_listed(cli: Cli) -> None:
    file = cli.image_file()

    image = cli.json("images", "add", file, "--appliance", 4, "--id", 7, "--name", "my disk")

    assert image["id"] == 7
    assert image["uri"] == "users/root/appliances/4/images/7"
    assert image["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert image["created"].endswith("+00:00")
    assert (cli.directory / "images" / image["location"]).read_bytes() == file.read_bytes()
    assert cli.json("images", "list") == {"images": [image]}
    assert cli.json("images", "list", "--appliance", 5) == {"images": []}
    assert cli.ok("images", "list").split("\t")[:5] == ["7", "root", "4", "my disk", "raw"]


def test_link_option_links_the_file(cli: Cli) -> None:
    file = cli.image_file()

    image = cli.json("images", "add", file, "--appliance", 4, "--link")

    assert (cli.directory / "images" / image["location"]).samefile(file)


def test_symlink_out_of_the_image_root_is_refused(cli: Cli) -> None:
    (cli.directory / "images").mkdir()
    link = cli.directory / "images" / "link.img"
    link.symlink_to(cli.image_file())

    result = cli.run("images", "add", link, "--appliance", 4)

    assert result.exit_code == 2
    assert "leads out of the image root" in result.stderr


def test_refused_image_leaves_nothing_behind(cli: Cli) -> None:
    file = cli.image_file()
    cli.ok("images", "add", file, "--appliance", 4, "--id", 7)
    held = sorted((cli.directory / "images").rglob("*"))

    for arguments, words in (
        ([file, "--id", 7], "there is an image 7 already"),
        ([file, "--format", "qcow2"], "means a qcow2 file, but the file is raw"),
        ([file, "--format", "floppy"], "'floppy' is unknown"),
        ([file, "--user", "anna"], "there is no user 'anna'"),
        ([cli.directory / "none.img"], "there is no such file"),
        ([cli.image_file("empty.img", b"")], "the file is empty"),
    ):
        result = cli.run("images", "add", *arguments, "--appliance", 4)
        assert result.exit_code == 2, result.output
        assert words in result.stderr

    assert sorted((cli.directory / "images").rglob("*")) == held
    assert len(cli.json("images", "list")["images"]) == 1


def test_compressed_image_is_decompressed(cli: Cli) -> None:
    disk = b"a disk" * 1000
    for kind, pack in COMPRESS.items():
        file = cli.image_file(f"web.img.{kind}", pack(disk))
        image = cli.json("images", "add", file, "--appliance", 4, "--format", "raw")
        assert (image["name"], image["size_bytes"]) == ("web", len(disk))
        assert image["sha256"] == hashlib.sha256(disk).hexdigest()


def test_wrong_checksum_is_refused(cli: Cli) -> None:
    file = cli.image_file()
    for name in ("md5", "sha256"):
        right = hashlib.new(name, file.read_bytes(), usedforsecurity=False).hexdigest()
        for value, words in (("x", f"--{name}: is no {name} checksum"), (right[::-1], f"--{name}: the image's {name}")):
            refused = cli.run("images", "add", file, "--appliance", 4, f"--{name}", value)
            assert refused.exit_code == 2
            assert words in refused.stderr
        assert cli.json("images", "list") == {"images": []} or name == "sha256"
        cli.ok("images", "add", file, "--appliance", 4, f"--{name}", right)


def test_invalid_name_is_refused(cli: Cli) -> None:
    for name in (" ", "a\nb", "a\x1bb"):
        refused = cli.run("images", "add", cli.image_file(), "--appliance", 4, "--name", name)
        assert refused.exit_code == 2
        assert "name: " in refused.stderr
