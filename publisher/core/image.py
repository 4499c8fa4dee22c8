"""A generated image in the catalog, and what its file really is. Reads files; knows no database and no cloud."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from publisher.core.checksums import Checksums, checksums
from publisher.core.errors import ImageFileError, InvalidRequest

DISK_FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhd", "iso")


class ImageState(StrEnum):
    """How far the registration of an image is. The last three are final, until the image is generated again."""

    QUEUED = "queued"
    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Image:
    """A generated image. Sizes in bytes, times in seconds since the epoch.

    Until it is ready, nothing is known of its file: sizes are 0, hashes and formats empty.
    """

    id: int
    owner: str
    appliance_id: int
    name: str
    format: str
    """The image format of the wire contract (`targetFormat/format/name`)."""
    disk_format: str
    """What the file is: one of `DISK_FORMATS`."""
    size: int
    virtual_size: int
    """Size of the disk inside, as the file's header or footer tells it; of a raw disk the same as `size`."""
    md5: str
    sha256: str
    sha512: str
    location: str
    """Path of the file under the image root, with `/`, without `..`."""
    created: float
    state: ImageState = ImageState.READY
    source: str | None = None
    """Where the file was fetched from, as it was given; None where it was sent to us, or added by an operator."""
    wanted_format: str | None = None
    """The format that its caller said it has, if they did; `format` is what it was found to be."""
    wanted_md5: str | None = None
    wanted_sha256: str | None = None
    """The checksums that its caller said it has, if they did."""
    error: str | None = None
    warning: str | None = None
    """What its owner should know about the file; the image can be published all the same."""
    glance_objection: str | None = None
    """Why Glance would refuse the file after its last byte, and what to do; None where it takes the file."""
    sent: int = 0
    total: int = 0
    """Bytes that the registration has read, and will have to; 0 where that is not known yet."""
    attempt: int = 0
    revision: int = 1
    """How often it was generated."""
    downloads: int = 0
    """How many one-time keys for its download were used up."""
    modified: float = 0.0
    registered: float | None = None
    """When it became ready."""

    @property
    def ready(self) -> bool:
        return self.state is ImageState.READY

    @property
    def final(self) -> bool:
        return self.state not in (ImageState.QUEUED, ImageState.FETCHING)

    @property
    def message(self) -> str:
        """What is happening, in words for a person."""
        match self.state:
            case ImageState.QUEUED if self.error:
                return f"Waiting to try again (attempt {self.attempt + 1}): {self.error}"
            case ImageState.FETCHING if self.total:
                return f"Fetching {self.sent >> 20} of {self.total >> 20} MiB"
            case ImageState.FETCHING:
                return "Fetching"
        return self.state.capitalize()

    @property
    def expected(self) -> Checksums:
        return checksums(md5=self.wanted_md5, sha256=self.wanted_sha256)

    @property
    def told_format(self) -> str:
        """The format that callers are told. Until the file was read, it is the one they asked for, or else `raw`."""
        return self.format or self.wanted_format or "raw"

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.location).name


@dataclass(frozen=True, slots=True)
class Digests:
    """What reading a file once tells about it. Hashes in lower-case hex."""

    size: int
    md5: str
    sha256: str
    sha512: str

    def by_algorithm(self) -> dict[str, str]:
        return {"md5": self.md5, "sha256": self.sha256, "sha512": self.sha512}


def open_under(root: Path, location: str) -> int:
    """Open a file under the image root for reading and return its descriptor, which the caller closes.

    Each part of the path is opened beneath the one before and without following links, so that no link, not even one
    swapped in meanwhile, leads out of the root. Raises `ImageFileError`.
    """
    parts = PurePosixPath(location).parts
    if not parts or location.startswith("/") or ".." in parts or "\0" in location:
        raise ImageFileError(f"the image file '{location}' is outside the image root")
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ImageFileError(f"the image root {root} cannot be opened: {error.strerror}") from None
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Not blocking: a named pipe in place of the image must not hang the worker.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = os.open(parts[-1], flags, dir_fd=descriptor)
    except FileNotFoundError:
        raise ImageFileError(f"the image file '{location}' is no longer there; generate the image again") from None
    except OSError as error:
        raise ImageFileError(f"the image file '{location}' cannot be opened: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise ImageFileError(f"the image file '{location}' is not a regular file")
    return opened


DISK_FORMAT_OF = {
    "openstackqcow2": "qcow2",
    "cloudstackqcow2": "qcow2",
    "kvm": "qcow2",
    "openstackvmdk": "vmdk",
    "k5vmdk": "vmdk",
    "esx": "vmdk",
    "openstackvdi": "vdi",
    "openstackvhd": "vhd",
    "cloudstackvhd": "vhd",
    "azure": "vhd",
    "hyper-v": "vhd",
    "raw": "raw",
    "oracleraw": "raw",
    "google": "raw",
    "ISO": "iso",
}
"""The disk format that an image format of the wire contract stands for."""

FORMAT_OF_DISK = {
    "qcow2": "openstackqcow2",
    "raw": "raw",
    "vmdk": "openstackvmdk",
    "iso": "ISO",
    "vdi": "openstackvdi",
    "vhd": "openstackvhd",
}
"""By what kind of file an image is, the format that it has where its caller names none, or only that kind."""


def full_name(format: str) -> str:
    """The contract's name of a format that may be named by the kind of file alone."""
    return FORMAT_OF_DISK.get(format, format)


def check_format(name: str) -> str:
    """The contract's name of a format. Raises `InvalidRequest` for an unknown one."""
    known = {each.lower(): each for each in DISK_FORMAT_OF}
    known |= FORMAT_OF_DISK
    canonical = known.get(name.lower())
    if canonical is None:
        names = sorted({*DISK_FORMAT_OF, *FORMAT_OF_DISK} - {"iso"})
        raise InvalidRequest(f"'{name}' is unknown; known are {', '.join(names)}", field="format")
    return canonical


def formats() -> tuple[str, ...]:
    """Every format that an image can have, by the contract's names."""
    return tuple(DISK_FORMAT_OF)


def target_format(format: str) -> str:
    """The `targetFormat/name` of an image of that format: what it is made for, which callers query by.

    That is a cloud where the format is a cloud's own, and otherwise the format's kind: `raw` or `iso`.
    """
    return next((name for name in _TARGETS if format.lower().startswith(name)), _TARGET_OF.get(format, format.lower()))


_TARGETS = ("azure", "cloudstack", "google", "hyper-v", "openstack")
_TARGET_OF = {"esx": "vsphere", "k5vmdk": "k5", "oracleraw": "oracle"}
