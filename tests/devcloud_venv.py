"""Find the virtual environment of the real Keystone and Glance."""

import os
from pathlib import Path

import pytest

from publisher.devcloud import environment


def devcloud_venv() -> Path:
    """Return the environment that PUBLISHER_DEVCLOUD_VENV names, else the checkout's `.venv-devcloud`.

    If it does not exist yet, the test is skipped on a laptop. In CI, or if the variable is set, the test's
    `DevCloud.up` creates it.
    """
    named = os.environ.get("PUBLISHER_DEVCLOUD_VENV")
    venv = Path(named) if named else Path(__file__).resolve().parents[1] / ".venv-devcloud"
    if not (named or "CI" in os.environ or environment.ready(venv)):
        pytest.skip(f"no Keystone and Glance in {venv}: the development cloud's first start installs them")
    return venv
