"""Disk files uploaded in the console."""

from __future__ import annotations

import pytest

from tests import disks
from tests.image_cases import ACCEPTED_ON_THE_WAY_IN, REFUSED, ImageCase
from tests.service import IMAGES, Service
from tests.unit.console.test_http_images import Browsers, upload


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_file_is_not_registered(fresh: Service, browser: Browsers, case: ImageCase) -> None:
    answer = upload(browser("alice"), case.content, file_name=case.name)
    assert answer.status == 400
    assert all(part in answer.text for part in case.refused), answer.text
    assert len(fresh.store.images.list()) == len(IMAGES)


@pytest.mark.parametrize("case", ACCEPTED_ON_THE_WAY_IN, ids=lambda case: case.name)
def test_a_file_is_registered_with_its_format_and_size(fresh: Service, browser: Browsers, case: ImageCase) -> None:
    answer = upload(browser("alice"), case.content, file_name=case.name)
    assert answer.status == 201, answer.text
    found = fresh.store.images.latest(1)[0]
    assert (found.disk_format, found.virtual_size) == (case.disk_format, case.virtual_size)


def test_an_image_s_page_shows_its_warnings(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    assert "say so by the format 'raw'" in upload(alice, b"eleven byte", file_name="a").text
    assert upload(alice, b"eleven byte", file_name="a", format="raw").status == 201
    page = alice.get(f"/images/{fresh.store.images.latest(1)[0].id}")
    assert "No partition table, boot sector or file system was found in the image; it may not boot." in page.words
    assert upload(alice, disks.vhd_fixed(), file_name="win.vhd").status == 201
    page = alice.get(f"/images/{fresh.store.images.latest(1)[0].id}")
    assert "cannot be published to OpenStack: Glance does not recognise a VHD of fixed size" in page.words
