"""Registering a generated image: brought under the image root, identified, hashed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from publisher.core.errors import InvalidRequest
from publisher.core.image import Image, digest, format_named, identify
from publisher.core.store import Store


def register(
    store: Store,
    image_root: Path,
    file: Path,
    *,
    owner: str,
    appliance_id: int,
    id: int | None = None,
    format: str | None = None,
    name: str | None = None,
    link: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Image:
    """Register `file` as a generated image, and return its row.

    A file under the image root already stays where it is; any other is copied in, or hard-linked with `link`.
    `on_progress` gets the bytes hashed in each step. Raises `InvalidRequest` for a file that is none, is empty, is
    not of the format named or lies outside the root by way of a link, and `Conflict` where the id is taken; the root
    then is as it was.
    """
    image_root.mkdir(parents=True, exist_ok=True, mode=0o750)
    root = image_root.resolve()
    if not file.is_file():
        raise InvalidRequest("there is no such file", field=str(file))
    if not file.stat().st_size:
        raise InvalidRequest("the file is empty", field=str(file))
    disk_format, virtual_size = identify(file)
    known_format = format_named(format, disk_format)
    location, brought = _bring_in(root, file, link)
    try:
        return store.images.add(
            owner=owner,
            appliance_id=appliance_id,
            name=name or file.stem,
            format=known_format,
            disk_format="raw" if known_format == "raw" else disk_format,
            virtual_size=virtual_size,
            digests=digest(root / location, on_progress),
            location=str(location),
            id=id,
        )
    except BaseException:
        if brought:
            (root / location).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (root / location).parent.rmdir()
        raise


def _bring_in(root: Path, file: Path, link: bool) -> tuple[Path, bool]:
    """The file's path under the root, and whether it was brought there just now."""
    inside = Path(os.path.normpath(file.absolute()))
    if inside.is_relative_to(root):
        if not file.resolve().is_relative_to(root) or file.resolve() != inside:
            raise InvalidRequest("leads out of the image root, or through a link in it", field=str(file))
        return inside.relative_to(root), False
    location = Path(uuid.uuid4().hex) / file.name
    (root / location.parent).mkdir(mode=0o750)
    source = file.resolve()
    if link:
        try:
            os.link(source, root / location)
        except OSError as error:
            (root / location.parent).rmdir()
            raise InvalidRequest(f"cannot be linked into the image root: {error.strerror}", field=str(file)) from None
    else:
        try:
            shutil.copyfile(source, root / location)
        except OSError as error:
            (root / location).unlink(missing_ok=True)
            (root / location.parent).rmdir()
            raise InvalidRequest(f"cannot be copied into the image root: {error.strerror}", field=str(file)) from None
    return location, True
