"""The option that names the CA bundle by which a cloud is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CaBundle = Annotated[
    Path | None,
    typer.Option(
        envvar="OS_CACERT",
        help="PEM file of the CA certificates to trust for this cloud, instead of the workers' own.",
    ),
]


def read_bundle(file: Path) -> dict[str, str]:
    """Read a CA bundle into the account's element, unchecked. Raises `OSError`."""
    return {"caBundle": file.read_text("utf-8", "replace")}
