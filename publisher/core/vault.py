"""Encryption of secrets at rest (Fernet: AES-128-CBC with HMAC-SHA256), with key rotation.

The intake seals the secrets of cloud accounts, and only workers open them. The intake opens the secrets of API keys, to
check signatures. To rotate: append the new key as the last line of the key file, and move it to the first line once
every process has it. Old lines still open what they sealed. Remove them once no ticket, stored account or API key is
left that was sealed with them.
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
    """The part of the vault that is needed to accept requests."""

    def seal(self, secrets: dict[str, str]) -> bytes: ...

    def fingerprints(self, text: bytes) -> list[str]: ...


class Vault:
    """Seals and opens secrets."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys, the first of which encrypts. Raises `ValueError` if there is none or one is no Fernet key."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        # Derived keys, not the keys themselves: codes and fingerprints must reveal nothing about sealed secrets.
        self._mac_key = hmac.digest(base64.urlsafe_b64decode(keys[0]), b"codes", "sha256")
        self._purposes: dict[str, bytes] = {}
        """The derived keys of purposes. There are a few."""
        self._fingerprinting = [hmac.digest(key.encode(), b"fingerprints", "sha256") for key in keys]

    @classmethod
    def from_file(cls, path: Path, *, production: bool = False) -> Vault:
        """Read the keys (one a line). Create the file with mode 0600 if it is missing.

        Raises `ConfigurationError` if the file is unreadable, open to others, or holds no valid key.
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
        """Return a code of 43 characters for URLs (HMAC-SHA256). Only the holder of the first key can make it.

        Codes for different purposes never match. A different first key gives different codes.
        """
        key = self._purposes.get(purpose)
        if key is None:
            key = self._purposes[purpose] = hmac.digest(self._mac_key, purpose.encode(), "sha256")
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).rstrip(b"=").decode()

    def fingerprints(self, text: bytes) -> list[str]:
        """Return the HMAC-SHA256 by each key, in hex. Store the first; a stored one may match any of them."""
        return [hmac.digest(key, text, "sha256").hex() for key in self._fingerprinting]

    def open(self, sealed: bytes) -> dict[str, str]:
        """Decrypt secrets. Raises `ConfigurationError` if no key opens them."""
        try:
            secrets: dict[str, str] = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise ConfigurationError(
                "the account's secrets were sealed with a key that this worker does not have; give every intake and"
                " worker the same secret key file"
            ) from None
        return secrets


def _open_to_others(path: Path) -> bool:
    """Return whether anyone but us can read the file or write to it.

    If another user owns it, its group may read it: Kubernetes and systemd provide secrets this way.
    """
    found = path.stat()
    return bool(found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o037))


def _generate(path: Path) -> None:
    make_directory(path.parent, 0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
        # Linking fails if the file exists: when two processes start together, only one key wins.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
