"""The service's visible output (help, pages, schemas, metrics) is compared with golden files.

A change that users must not notice leaves these files unchanged, byte for byte. To change them,
run `pytest tests/unit/golden --regen-all`; `git diff` then shows what users will see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pytest_regressions.file_regression import FileRegressionFixture
from typer.testing import CliRunner

import workers.metrics  # noqa: F401  # declares the metrics of a worker
from publisher.cli.main import app
from publisher.core.settings_report import table
from publisher.intake.wire import xsd
from publisher.telemetry.metrics import exposition
from publisher.telemetry.store_metrics import store_registry
from tests.browser.pages import PAGES
from tests.command import all_commands
from tests.service import Service
from tests.unit.console.conftest import Browser

FILES = Path(__file__).parent / "files"
WIDTH = {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}


HELP = {f"help/{'-'.join(('publisher', *names))}.txt": names for names, _ in all_commands()}
PAGE = {f"pages/{re.sub('[^a-z0-9]+', '-', path).strip('-')}.html": path for path in ("/sign-in", *PAGES)}
SCHEMAS = {"schema.xsd": False, "schema-extended.xsd": True}
OTHERS = {"openapi.json", "settings.md", "metrics.txt"}

Golden = Callable[[str, str], None]


@pytest.fixture
def golden(file_regression: FileRegressionFixture) -> Golden:
    """Compare a text with the golden file of that name."""
    return lambda text, file: file_regression.check(
        text, encoding="utf-8", newline="", extension=Path(file).suffix, fullpath=FILES / file
    )


def test_every_golden_file_is_compared() -> None:
    there = {str(file.relative_to(FILES)) for file in FILES.rglob("*") if file.is_file()}
    assert there == {*HELP, *PAGE, *SCHEMAS, *OTHERS}


@pytest.mark.long
def test_openapi_matches_its_golden_file(service: Service, golden: Golden) -> None:
    served = service.get("openapi.json", login=None).json
    golden(json.dumps(served, indent=1, ensure_ascii=False) + "\n", "openapi.json")


@pytest.mark.parametrize("file", SCHEMAS)
def test_schema_matches_its_golden_file(golden: Golden, file: str) -> None:
    golden(xsd.document(extended=SCHEMAS[file]).decode(), file)


@pytest.mark.parametrize("file", HELP)
def test_help_matches_its_golden_file(golden: Golden, file: str) -> None:
    result = CliRunner().invoke(app, [*HELP[file], "--help"], prog_name="publisher", env=WIDTH)
    assert result.exit_code == 0
    golden("".join(f"{line.rstrip()}\n" for line in result.output.splitlines()), file)


def test_settings_table_matches_its_golden_file(golden: Golden) -> None:
    golden(table() + "\n", "settings.md")


@pytest.mark.long
def test_metrics_match_their_golden_file(service: Service, golden: Golden) -> None:
    told = text_string_to_metric_families(exposition(store_registry(service.store, 60)).decode())
    golden("".join(sorted(f"{each.name} ({each.type}): {each.documentation}\n" for each in told)), "metrics.txt")


@pytest.mark.parametrize("file", PAGE)
def test_page_matches_its_golden_file(root: Browser, golden: Golden, file: str) -> None:
    golden(lasting(root.get(PAGE[file]).text), file)


def lasting(page: str) -> str:
    """Return the page without the tokens that differ for each session and each form."""
    return re.sub(r'(name="(?:csrf|page)" (?:content|value)=)"[\w-]{22,}"', r'\1"…"', page)
