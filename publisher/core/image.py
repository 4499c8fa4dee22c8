"""A registered disk image: its states, URIs, formats, checksums and file. Uses no database and no cloud."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from publisher.core.errors import ImageFileError, InvalidRequest
from publisher.core.uris import parse_uri, uri_pattern, user_uri

GIB = 1 << 30
DISK_FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhd", "iso")

HEX_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
"""Maps each algorithm, by our name for it, to the length of its checksum in hex digits."""

_URI = uri_pattern("appliances/ID/images/ID")
_APPLIANCE_URI = uri_pattern("appliances/ID")


class ImageState(StrEnum):
    """The state of an image's registration. The last three are final until the image is registered again."""

    QUEUED = "queued"
    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum that a caller declared."""

    algorithm: str
    """One of `HEX_DIGITS`."""
    value: str
    """Lower-case hex."""
    field: str
    """The element, header or option that it was given in."""


Checksums = tuple[Checksum, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A registered disk image. Sizes in bytes, times in seconds since the epoch.

    Until it is ready, its file is unknown: sizes are 0, hashes and formats are empty.
    """

    id: int
    owner: str
    appliance_id: int
    name: str
    format: str
    """The image format of the wire contract (`targetFormat/format/name`)."""
    disk_format: str
    """The format of the file: one of `DISK_FORMATS`."""
    size: int
    virtual_size: int
    """Size of the disk inside, from the file's header or footer; for a raw disk, equal to `size`."""
    md5: str
    sha256: str
    sha512: str
    location: str
    """Path of the file under the image root, with `/` and without `..`."""
    created: float
    state: ImageState = ImageState.READY
    source: str | None = None
    """The URL that the file was fetched from, as given. None if a caller uploaded it or an operator added it."""
    wanted_format: str | None = None
    """The format that the caller declared, if any; `format` is the detected one."""
    wanted_md5: str | None = None
    wanted_sha256: str | None = None
    """The checksums that the caller declared, if any."""
    error: str | None = None
    warning: str | None = None
    """A note to the owner about the file. The image can still be published."""
    glance_objection: str | None = None
    """Why Glance would refuse the file after its last byte, and what to do. None if Glance accepts the file."""
    sent: int = 0
    total: int = 0
    """Bytes that the registration has read, and will read in total; 0 while unknown."""
    attempt: int = 0
    revision: int = 1
    """How many times it has been registered."""
    downloads: int = 0
    """How many one-time download keys were used."""
    modified: float = 0.0
    registered: float | None = None
    """When it became ready."""

    @property
    def ready(self) -> bool:
        return self.state is ImageState.READY

    @property
    def disk_gib(self) -> int:
        """Size of the disk that the image needs to boot, in GiB. An ISO is not copied to the disk, so it needs none."""
        return 0 if self.disk_format == "iso" else -(-self.virtual_size // GIB)

    @property
    def final(self) -> bool:
        return self.state not in (ImageState.QUEUED, ImageState.FETCHING)

    @property
    def message(self) -> str:
        """The current activity, as text for people."""
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
    def reported_format(self) -> str:
        """The format that the API reports. Until the file has been read, the declared one, or else `raw`."""
        return self.format or self.wanted_format or "raw"

    @property
    def file_name(self) -> str:
        return self.location.rpartition("/")[2]


def appliance_uri(login: str, appliance_id: int) -> str:
    """Return the URI of the appliance that groups images."""
    return f"{user_uri(login)}/appliances/{appliance_id}"


def image_uri(login: str, appliance_id: int, image_id: int) -> str:
    return f"{appliance_uri(login, appliance_id)}/images/{image_id}"


def download_uri(image_uri: str, file_name: str, key: str) -> str:
    """Return the URI to download an image's file from. `key` is a one-time key that replaces the login."""
    return f"{image_uri}/downloads/{quote(file_name, safe='')}?downloadId={key}"


def parse_appliance_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and appliance id. Raises `InvalidRequest`."""
    login, (appliance_id,) = parse_uri(uri, _APPLIANCE_URI, "users/USER/appliances/4", field)
    return login, appliance_id


def parse_image_uri(uri: str, field: str) -> tuple[str, int, int]:
    """Return login, appliance id and image id. Raises `InvalidRequest`."""
    login, (appliance_id, image_id) = parse_uri(uri, _URI, "users/USER/appliances/4/images/7", field)
    return login, appliance_id, image_id


@dataclass(frozen=True, slots=True)
class Digests:
    """The result of reading a file once: its size in bytes and its hashes in lower-case hex."""

    size: int
    md5: str
    sha256: str
    sha512: str

    def by_algorithm(self) -> dict[str, str]:
        return {"md5": self.md5, "sha256": self.sha256, "sha512": self.sha512}


def checksum(algorithm: str, text: str, field: str) -> Checksum:
    """Parse a checksum in hex. Raises `InvalidRequest`."""
    value = text.strip().lower()
    digits = HEX_DIGITS[algorithm]
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise InvalidRequest(f"is no {algorithm} checksum; give its {digits} hexadecimal digits", field=field)
    return Checksum(algorithm, value, field)


def checksums(*, md5: object = None, sha256: object = None) -> Checksums:
    """Parse the checksums of a document or of request parameters, named as on the wire. Raises `InvalidRequest`."""
    given = {"md5": ("md5sum", md5), "sha256": ("sha256sum", sha256)}
    return tuple(checksum(algorithm, str(text), field) for algorithm, (field, text) in given.items() if text)


def check_checksums(expected: Checksums, *found: Mapping[str, str]) -> None:
    """Compare each checksum with the computed ones: one of them must be equal.

    A compressed image has two: of the bytes as sent and of the disk inside. Raises `InvalidRequest`.
    """
    for each in expected:
        values = list(dict.fromkeys(one[each.algorithm] for one in found if each.algorithm in one))
        if each.value not in values:
            raise InvalidRequest(
                f"the image's {each.algorithm} is {', unpacked '.join(values)}, not {each.value};"
                " send the image again, or correct the checksum",
                field=each.field,
            )


def open_under(root: Path, location: str) -> int:
    """Open a file under the image root for reading and return its descriptor. The caller closes it.

    Each part of the path is opened relative to its parent directory, without following links. So no link leads out
    of the root, not even one that is swapped in meanwhile. Raises `ImageFileError`.
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
        # Non-blocking: a named pipe in place of the image must not hang the worker.
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
"""Maps each image format of the wire contract to the disk format of its file."""

FORMAT_OF_DISK = {
    "qcow2": "openstackqcow2",
    "raw": "raw",
    "vmdk": "openstackvmdk",
    "iso": "ISO",
    "vdi": "openstackvdi",
    "vhd": "openstackvhd",
}
"""Maps each disk format to the default image format, for callers that name no format or only a disk format."""


def full_name(format: str) -> str:
    """Return the contract's name of a format that may be given as a disk format."""
    return FORMAT_OF_DISK.get(format, format)


def check_format(name: str) -> str:
    """Return the contract's name of a format. Raises `InvalidRequest` if it is unknown."""
    known = {each.lower(): each for each in DISK_FORMAT_OF}
    known |= FORMAT_OF_DISK
    canonical = known.get(name.lower())
    if canonical is None:
        names = sorted({*DISK_FORMAT_OF, *FORMAT_OF_DISK} - {"iso"})
        raise InvalidRequest(f"'{name}' is unknown; known are {', '.join(names)}", field="format")
    return canonical


def formats() -> tuple[str, ...]:
    """Return every image format, by the contract's names."""
    return tuple(DISK_FORMAT_OF)


def target_format(format: str) -> str:
    """Return the `targetFormat/name` of an image with this format: its purpose, which callers can filter by.

    This is a cloud if the format belongs to one cloud, and otherwise the disk format: `raw` or `iso`.
    """
    return next((name for name in _TARGETS if format.lower().startswith(name)), _TARGET_OF.get(format, format.lower()))


_TARGETS = ("azure", "cloudstack", "google", "hyper-v", "openstack")
_TARGET_OF = {"esx": "vsphere", "k5vmdk": "k5", "oracleraw": "oracle"}
