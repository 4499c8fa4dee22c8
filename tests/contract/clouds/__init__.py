"""The clouds that the tests of this directory run with. A module names those of one plugin in `CLOUDS`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from tests.contract.harness import Cloud


def every_cloud() -> list[Cloud]:
    """Return the clouds of all modules of this package."""
    modules = [import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)]
    return [cloud for module in modules for cloud in module.CLOUDS]
