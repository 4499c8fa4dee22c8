"""Where the tests find the environment of the real Keystone and Glance."""

import os
from pathlib import Path

import pytest

from publisher.devcloud import environment


def devcloud_venv() -> Path:
    """The environment that PUBLISHER_DEVCLOUD_VENV names, else `.venv-devcloud` of the checkout.

    Where it is not made yet, a test skips on a laptop. In CI, or when the variable names it, the test's
    `DevCloud.up` makes it.
    """
    named = os.environ.get("PUBLISHER_DEVCLOUD_VENV")
    venv = Path(named) if named else Path(__file__).resolve().parents[1] / ".venv-devcloud"
    if not (named or "CI" in os.environ or environment.ready(venv)):
        pytest.skip(f"no Keystone and Glance in {venv}: the development cloud's first start installs them")
    return venv
