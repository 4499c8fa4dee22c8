"""A network of its own for processes, whose only way out is one address of this machine."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers import missing


@functools.cache
def networks_allowed() -> bool:
    """Return whether this process may create networks: as root, unless a container forbids it."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)  # noqa: S607
    return tried.returncode == 0


@dataclass(frozen=True)
class Network:
    """A network namespace (network_namespaces(7)) with one cable to this machine."""

    name: str
    outside: str
    """This machine's address at the cable, which is all that can be reached from inside."""

    @property
    def command(self) -> list[str]:
        """Run the command that follows in this network."""
        return ["ip", "netns", "exec", self.name]


@contextmanager
def network() -> Iterator[Network]:
    if not shutil.which("ip"):
        missing("iproute2")
    number = random.randrange(1 << 15)  # noqa: S311  # no secret
    name = f"publisher{number}"
    # 198.18.0.0/15 is for tests (RFC 2544). Each cable has a network of four addresses.
    first = f"198.{18 + (number >> 14)}.{number >> 6 & 255}"
    outside, inside = f"{first}.{(number & 63) * 4 + 1}", f"{first}.{(number & 63) * 4 + 2}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", f"pub{number}", "type", "veth", "peer", "name", "out", "netns", name)
        _ip("addr", "add", f"{outside}/30", "dev", f"pub{number}")
        _ip("link", "set", f"pub{number}", "up")
        _ip("-n", name, "addr", "add", f"{inside}/30", "dev", "out")
        _ip("-n", name, "link", "set", "out", "up")
        yield Network(name, outside)
    finally:
        # The cable goes with it.
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S607
