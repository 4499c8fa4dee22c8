"""What images are made for: names that clients look up, and numbers that stay what they are."""

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
"""What clients look up where an image is for OpenStack."""
TARGETS = {*API_PLATFORMS, "kvm", "hyper-v", "raw", "iso"}


def test_an_image_for_openstack_has_a_format_of_openstacks() -> None:
    assert {each for each in formats() if target_format(each) == "openstack"} == BUILDERS
    assert set(formats()) < API_FORMATS
    assert {target_format(each) for each in formats()} < TARGETS


OF_THEIR_OWN_KIND = {"raw": "raw", "iso": "ISO"}


@pytest.mark.parametrize("disk_format", [each for each in DISK_FORMATS if each not in OF_THEIR_OWN_KIND])
def test_without_a_format_an_image_is_for_openstack(disk_format: str) -> None:
    format = full_name(disk_format)
    assert (target_format(format), target_type("openstack")) == ("openstack", "cloud")
    assert format == f"openstack{disk_format}"


@pytest.mark.parametrize(("disk_format", "format"), OF_THEIR_OWN_KIND.items())
def test_without_a_format_a_raw_image_or_an_iso_is_of_its_own_kind(disk_format: str, format: str) -> None:
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
        # Made from the name.
        (platform_number("nimbus"), 204592806369885),
        (target_format_number("nimbus", "raw"), 242011382958781),
    ],
)
def test_a_number_is_never_another_one(number: int, kept: int) -> None:
    """Clients keep it: this test is only ever added to."""
    assert number == kept


def test_no_number_is_given_twice() -> None:
    targets, names = sorted({*TARGETS, "nimbus", "memory"}), sorted({*API_FORMATS, "nimbusdisk"})
    platforms = [platform_number(each) for each in targets if each in API_PLATFORMS or each not in TARGETS]
    of_formats = [format_number(each) for each in names]
    both = [target_format_number(target, format) for target, format in product(targets, names)]
    for numbers in (platforms, of_formats, both):
        assert len(set(numbers)) == len(numbers)
        # JSON carries no greater number exactly.
        assert all(0 < each < 1 << 53 for each in numbers)
