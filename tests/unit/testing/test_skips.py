"""In CI a test that skips itself fails. A test that a mark skips does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.stack import REPOSITORY

TESTS = """\
import pytest

def test_itself():
    pytest.skip("there is no teapot")

@pytest.fixture
def teapot():
    pytest.skip("there is no teapot")

def test_by_its_fixture(teapot):
    pass

@pytest.mark.skipif(True, reason="means nothing here")
def test_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert not 1
"""
MODULE = """\
import pytest

pytest.importorskip("no_such_module_as_this")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("variables", "failed", "exit_code"),
    [({}, set(), 0), ({"CI": "true"}, {"itself", "by_its_fixture", "file"}, 1)],
)
def test_skipped_test_fails_in_ci_unless_marked(
    tmp_path: Path, variables: dict[str, str], failed: set[str], exit_code: int
) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests import skips\ndef pytest_configure(config): config.pluginmanager.register(skips)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_file.py").write_text(MODULE)
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"), "-rA", "--continue-on-collection-errors"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )  # fmt: skip
    words = done.stdout[done.stdout.index("short test summary") :]
    found = [line for line in words.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert {
        name for name in ("itself", "by_its_fixture", "file") if any(f"test_{name}" in line for line in found)
    } == failed
    assert len(found) == len(failed), done.stdout
    assert done.returncode == exit_code
