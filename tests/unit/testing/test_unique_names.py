"""Names that must be unique, so that a search finds one thing."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAME_BASENAME = {"__init__.py"}
"""Files that every package may have."""
DIRECTORIES_WITH_COUNTERPARTS = {"routes", "versions", "inside"}
"""The API and the console have a module of routes for each noun; migrations and the development cloud stand alone."""


def repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


@pytest.mark.long
def test_class_names_are_unique() -> None:
    files = [*ROOT.glob("publisher/**/*.py"), *ROOT.glob("workers/**/*.py")]
    assert len(files) > 100
    classes = [
        node.name for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
    ]
    assert repeated(classes) == []


def test_file_names_are_unique() -> None:
    files = [
        file.name
        for file in ROOT.glob("publisher/**/*.py")
        if file.name not in SAME_BASENAME and file.parent.name not in DIRECTORIES_WITH_COUNTERPARTS
    ]
    assert repeated(files) == []
