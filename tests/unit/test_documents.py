"""What the documents say is there is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from publisher.cli.main import app
from publisher.core.settings import PREFIX, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *(REPOSITORY / "docs").rglob("*.md")])


def test_every_setting_is_documented_as_it_is() -> None:
    rows = {}
    for line in (REPOSITORY / "docs" / "operations.md").read_text().splitlines():
        if match := re.fullmatch(r"\| `(PUBLISHER_\w+)` \| (.*?) ?\| (.*) \|", line):
            rows[match[1]] = (match[2].strip(), match[3])
    expected = {}
    for setting in fields(Settings):
        default = "~/.local/share/image-publisher" if setting.name == "data_dir" else setting.default
        shown = "" if default in ("", None) else str(default)
        expected[PREFIX + setting.name.upper()] = (shown, setting.metadata["help"])
    assert rows == expected


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_a_document_refers_to_exists(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= targets
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"(?:`|\$ |bin/)publisher ([a-z]+)", text)) <= commands
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / link).exists(), link
    for path in re.findall(r"`((?:publisher|workers|tests|docs|deploy)/[\w./-]+)`", text):
        assert (REPOSITORY / path).exists(), path
    for module in re.findall(r"`((?:publisher|workers)(?:\.[a-z_]+)+)", text):
        assert (REPOSITORY / module.replace(".", "/")).exists() or any(
            (REPOSITORY / module.rsplit(".", drop)[0].replace(".", "/")).with_suffix(".py").exists() for drop in (0, 1)
        ), module
