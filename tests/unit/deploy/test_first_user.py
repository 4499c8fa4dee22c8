"""Each way to deploy documents a working command that adds the first user."""

from __future__ import annotations

import re
import shlex

import pytest

from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.users import verify_password
from tests.command import Cli
from tests.records import password_hash
from tests.unit.deploy.files import REPOSITORY

SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (REPOSITORY / "docs/deployment.md").read_text(), re.M | re.S)
)
FIRST_USER = re.compile(r"(?:publisher|publisher-run) (users add [^`\n]*)")


@pytest.mark.parametrize("section", ["Docker Compose", "systemd", "Kubernetes", "Procfile"])
def test_documented_command_adds_an_administrator(bare_cli: Cli, sqlite_url: str, section: str) -> None:
    command, _, given = FIRST_USER.findall(SECTIONS[section])[0].partition("  ")[0].partition(" < ")
    assert given in ("", "root.password")
    # Under Compose the command has a terminal and shows the generated password. Here it reads one instead.
    arguments = [each.replace("--generate", "--password-stdin") for each in shlex.split(command)]

    bare_cli.ok(*arguments, input="open sesame\n")

    store = Store.open(Settings.from_environment())
    try:
        root = store.users.get("root")
        assert root
        assert root.administrator
        assert verify_password(password_hash(store, "root"), "open sesame")
    finally:
        store.close()


def test_procfile_documents_the_command() -> None:
    assert (
        "#   publisher users add root --admin --password-stdin < root.password" in (REPOSITORY / "Procfile").read_text()
    )
