"""Everything that the documents refer to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from publisher.cli.main import app
from publisher.core.settings_report import table

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


def test_settings_table_is_up_to_date() -> None:
    assert f"\n\n{table()}\n" in (REPOSITORY / "docs" / "operations.md").read_text(), "see: publisher config --docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_reference_in_a_document_exists(document: Path) -> None:
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
