"""A cloud in a directory, as strict as real ones: it takes blocks of a snapshot, and makes an image of the snapshot.

Its state survives the worker's process. It reports no hash. A snapshot is found by the token that it was created with;
a token that was used once creates no second snapshot, even after the first one was deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from publisher.core.errors import PermanentCloudError, TransientCloudError

BLOCK_BYTES = 1 << 20
PROJECTS, REGIONS = ("partner", "lab"), ("north", "south")
"""The projects that images can be shared with, and the regions that they can be in."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    token: str
    tags: Mapping[str, str]
    state: str
    """`open` for blocks, `complete`, or `deleted`."""
    made: float


@dataclass(frozen=True, slots=True)
class PartsImage:
    id: str
    name: str
    snapshot: str
    tags: Mapping[str, str]
    made: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


class PartsCloud:
    """The cloud's API. May be called from several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("snapshots", "blocks", "images"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def create_snapshot(self, token: str, tags: Mapping[str, str]) -> Snapshot:
        """Return the snapshot of this token. Creates it if the token is new."""
        with self._locked():
            made = self.snapshot(token)
            if made is None:
                made = Snapshot(token, tags, "open", time.time())
                self._write("snapshots", token, made)
                (self.directory / "blocks" / token).touch()
            return made

    def put_block(self, token: str, offset: int, content: memoryview, sha256: str) -> None:
        with self._locked():
            if self._state(token) != "open":
                raise TransientCloudError("the snapshot takes no blocks")
        if offset % BLOCK_BYTES or len(content) != BLOCK_BYTES or hashlib.sha256(content).hexdigest() != sha256:
            raise PermanentCloudError("the block is invalid")
        descriptor = os.open(self.directory / "blocks" / token, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content, offset)
        finally:
            os.close(descriptor)

    def complete_snapshot(self, token: str) -> None:
        with self._locked():
            if self._state(token) == "open":
                self._change(token, "complete")
            elif self._state(token) != "complete":
                raise TransientCloudError("there is no such snapshot")

    def room(self) -> float:
        """Return how many bytes the quota leaves. There is a quota if the directory has a file of this name."""
        try:
            return int((self.directory / "quota").read_text())
        except FileNotFoundError:
            return float("inf")

    def register_image(
        self, name: str, token: str, tags: Mapping[str, str], attributes: Mapping[str, Any] | None = None
    ) -> PartsImage:
        with self._locked():
            if self._state(token) != "complete":
                raise TransientCloudError("the snapshot is not complete")
            if any(each.name == name for each in self.images()):
                raise PermanentCloudError(f"there is an image '{name}' already")
            given = {"visibility": "private", **(attributes or {})}
            made = PartsImage(f"image-{uuid.uuid4().hex[:17]}", name, token, tags, time.time(), given)
            self._write("images", made.id, made)
            return made

    def change_image(self, id: str, **attributes: object) -> None:
        with self._locked():
            made = PartsImage(**self._read("images", id))
            self._write("images", id, replace(made, attributes={**made.attributes, **attributes}))

    def delete_image(self, id: str) -> None:
        if any(each.id == id and each.attributes.get("protected") for each in self.images()):
            raise PermanentCloudError("the image is protected")
        (self.directory / "images" / id).unlink(missing_ok=True)

    def delete_snapshot(self, token: str) -> None:
        with self._locked():
            if any(each.snapshot == token for each in self.images()):
                raise TransientCloudError("the snapshot is in use")
            if self.snapshot(token):
                self._change(token, "deleted")
                (self.directory / "blocks" / token).unlink(missing_ok=True)

    def snapshot(self, token: str) -> Snapshot | None:
        try:
            return Snapshot(**self._read("snapshots", token))
        except FileNotFoundError:
            return None

    def snapshots(self) -> list[Snapshot]:
        found = [self.snapshot(each.name) for each in (self.directory / "snapshots").iterdir()]
        return [each for each in found if each and each.state != "deleted"]

    def images(self) -> list[PartsImage]:
        return [PartsImage(**self._read("images", each.name)) for each in (self.directory / "images").iterdir()]

    def content(self, token: str) -> bytes:
        return (self.directory / "blocks" / token).read_bytes()

    def _state(self, token: str) -> str | None:
        found = self.snapshot(token)
        return found.state if found else None

    def _change(self, token: str, state: str) -> None:
        self._write("snapshots", token, Snapshot(**(self._read("snapshots", token) | {"state": state})))

    def _read(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / kind / name).read_text())
        return found

    def _write(self, kind: str, name: str, made: Snapshot | PartsImage) -> None:
        written = self.directory / f"{uuid.uuid4()}.json"
        written.write_text(json.dumps(asdict(made)))
        written.rename(self.directory / kind / name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
