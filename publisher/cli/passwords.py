"""Read passwords from where other users of the machine cannot see them, or generate them.

They are never an option's value.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import typer

from publisher.core.errors import InvalidRequest

CLOUD_VARIABLE = "OS_PASSWORD"
"""The variable in which OpenStack's own clients look for a cloud account's password."""


def generate() -> str:
    """Return 144 random bits, in characters that need no quoting in a URL or a shell."""
    return secrets.token_urlsafe(18)


def from_stdin() -> str:
    """Read the first line of the standard input. Raises `InvalidRequest` if it is empty."""
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequest("no password came in on the standard input")
    return password


def from_file(path: Path) -> str:
    """Read the first line of a file. Raises `InvalidRequest` if it is empty, or `OSError`."""
    with path.open(encoding="utf-8", errors="strict") as file:
        password = file.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequest(f"{path} holds no password; write it on the first line")
    return password


def ask(prompt: str, *, instead: str, confirm: bool = False) -> str:
    """Ask at the terminal. Without a terminal, raises `InvalidRequest`, which says what to do `instead`."""
    if not sys.stdin.isatty():
        raise InvalidRequest(f"there is no terminal to ask for a password at; {instead}")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def write(path: Path, password: str) -> None:
    """Write a password to a file of mode 0600, and replace an existing one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password + "\n")
    fresh.replace(path)


def kept(path: Path) -> str:
    """Return the password kept in a file. The first call generates it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(path, generate())
    return path.read_text("ascii").strip()
