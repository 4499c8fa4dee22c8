"""Encryption of secrets at rest (Fernet: AES-128-CBC with HMAC-SHA256), with key rotation.

The secrets of cloud accounts are sealed by the intake and opened by workers only; those of API keys the intake opens,
to check signatures. Rotation: a new key comes onto the last line of the key file, and onto the first once everybody has
it; old lines still open what they sealed, and can go once no ticket, no stored account and no API key is left that was
sealed with them.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from publisher.core.directories import make_directory
from publisher.core.errors import ConfigurationError

logger = logging.getLogger(__name__)


class Sealer(Protocol):
    """The half of the vault that those who accept requests need."""

    def seal(self, secrets: dict[str, str]) -> bytes: ...

    def fingerprints(self, text: bytes) -> list[str]: ...


class Vault:
    """Seals a ticket's secrets, and opens them again."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Raises `ValueError` where one of them is no Fernet key, or there is none."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        # Not the keys themselves: what is made with these must tell nothing of what is sealed.
        self._mac_key = hmac.digest(base64.urlsafe_b64decode(keys[0]), b"codes", "sha256")
        self._fingerprinting = [hmac.digest(key.encode(), b"fingerprints", "sha256") for key in keys]

    @classmethod
    def from_file(cls, path: Path, *, production: bool = False) -> Vault:
        """Read the keys (one a line); make the file, mode 0600, where there is none.

        Raises `ConfigurationError` where the file is unreadable, open to others, or holds no valid key.
        """
        if not path.exists():
            _generate(path)
            if production:
                logger.warning(
                    "Generated a new secret key in %s. Every intake and worker needs the same one: copy it there, and"
                    " keep a copy with your backups.",
                    path,
                )
        try:
            if _open_to_others(path):
                raise ConfigurationError(f"{path} can be read by others; run: chmod 600 {path}")
            lines = path.read_text("ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the secret key file {path} cannot be read: {error}") from None
        try:
            return cls(lines)
        except ValueError:
            raise ConfigurationError(f"{path} holds no valid Fernet key; see docs/operations.md") from None

    def seal(self, secrets: dict[str, str]) -> bytes:
        return self._fernet.encrypt(json.dumps(secrets).encode())

    def mac(self, purpose: str, text: str) -> str:
        """A code of 43 letters, for URLs, that only who has the first key can make (HMAC-SHA256).

        Codes for different purposes never meet. With another first key they are others.
        """
        key = hmac.digest(self._mac_key, purpose.encode(), "sha256")
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).rstrip(b"=").decode()

    def fingerprints(self, text: bytes) -> list[str]:
        """The HMAC-SHA256, in hex, by each key: the first is what to store, and any may be what was stored."""
        return [hmac.digest(key, text, "sha256").hex() for key in self._fingerprinting]

    def open(self, sealed: bytes) -> dict[str, str]:
        """Raises `ConfigurationError` where no key opens it."""
        try:
            secrets: dict[str, str] = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise ConfigurationError(
                "the account's secrets were sealed with a key that this worker does not have; give every intake and"
                " worker the same secret key file"
            ) from None
        return secrets


def _open_to_others(path: Path) -> bool:
    """Whether anybody but us can read the file, or write to it.

    Where it is somebody else's, its group may read it: so Kubernetes and systemd give a service its secrets.
    """
    found = path.stat()
    return bool(found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o037))


def _generate(path: Path) -> None:
    make_directory(path.parent, 0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
        # A link fails where the file exists already: of two processes that start together, one key wins.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
