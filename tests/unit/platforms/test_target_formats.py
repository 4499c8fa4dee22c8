"""Target formats of images: clients look up their names, and their numbers never change."""

from itertools import product

import pytest

from publisher.core.image import DISK_FORMATS, formats, full_name, target_format
from publisher.platforms.target_formats import (
    API_FORMATS,
    API_PLATFORMS,
    format_number,
    platform_number,
    target_format_number,
    target_type,
)

BUILDERS = {"openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk"}
"""Format names that clients look up for an OpenStack image."""
TARGETS = {*API_PLATFORMS, "kvm", "hyper-v", "raw", "iso"}


def test_every_openstack_image_has_an_openstack_format() -> None:
    assert {each for each in formats() if target_format(each) == "openstack"} == BUILDERS
    assert set(formats()) < API_FORMATS
    assert {target_format(each) for each in formats()} < TARGETS


OF_THEIR_OWN_KIND = {"raw": "raw", "iso": "ISO"}


@pytest.mark.parametrize("disk_format", [each for each in DISK_FORMATS if each not in OF_THEIR_OWN_KIND])
def test_image_without_a_format_is_for_openstack(disk_format: str) -> None:
    format = full_name(disk_format)
    assert (target_format(format), target_type("openstack")) == ("openstack", "cloud")
    assert format == f"openstack{disk_format}"


@pytest.mark.parametrize(("disk_format", "format"), OF_THEIR_OWN_KIND.items())
def test_raw_image_or_iso_without_a_format_keeps_its_own_type(disk_format: str, format: str) -> None:
    assert (target_format(full_name(disk_format)), full_name(disk_format)) == (disk_format, format)
    assert target_type(disk_format) != "cloud"


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (platform_number("openstack"), 101),
        (platform_number("oracle"), 114),
        (format_number("openstackqcow2"), 315),
        (format_number("raw"), 324),
        (target_format_number("openstack", "openstackvmdk"), 101318),
        (target_format_number("raw", "raw"), 203324),
        (target_format_number("iso", "ISO"), 204310),
        # These numbers are computed from the name.
        (platform_number("nimbus"), 204592806369885),
        (target_format_number("nimbus", "raw"), 242011382958781),
    ],
)
def test_numbers_of_platforms_and_formats_never_change(number: int, kept: int) -> None:
    """Clients store these numbers, so entries may be added here but never changed."""
    assert number == kept


def test_numbers_are_unique() -> None:
    targets, names = sorted({*TARGETS, "nimbus", "memory"}), sorted({*API_FORMATS, "nimbusdisk"})
    platforms = [platform_number(each) for each in targets if each in API_PLATFORMS or each not in TARGETS]
    of_formats = [format_number(each) for each in names]
    both = [target_format_number(target, format) for target, format in product(targets, names)]
    for numbers in (platforms, of_formats, both):
        assert len(set(numbers)) == len(numbers)
        # JSON does not represent larger numbers exactly.
        assert all(0 < each < 1 << 53 for each in numbers)
