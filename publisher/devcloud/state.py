"""The part of a cloud that persists between starts, in `state.json`: its ports and its users' passwords."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from publisher.devcloud.config import HOST
from publisher.devcloud.devcloud_error import DevCloudError
from publisher.devcloud.identity import SERVICE_USER, USERS
from publisher.devcloud.servers import free_port


@dataclass(frozen=True)
class CloudState:
    """A cloud's address, ports and passwords. `complete`: its creation has finished."""

    keystone_port: int
    glance_port: int
    passwords: Mapping[str, str]
    complete: bool = False
    host: str = HOST

    @classmethod
    def new(cls, host: str = HOST) -> "CloudState":
        """Return a state with free ports of this address and random passwords."""
        keystone_port = free_port(host)
        glance_port = free_port(host)
        while glance_port == keystone_port:
            glance_port = free_port(host)
        passwords = {name: secrets.token_urlsafe(18) for name in (*USERS, SERVICE_USER)}
        return cls(keystone_port, glance_port, passwords, host=host)

    @classmethod
    def load(cls, path: Path) -> "CloudState | None":
        """Return the saved state, or None. Raises DevCloudError if the file is invalid."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DevCloudError(f"{path} is damaged ({error}): remove {path.parent}") from error

    def save(self, path: Path) -> None:
        """Replace the file atomically. Only its owner can read it."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(asdict(self), out, indent=1)
        fresh.replace(path)
