"""Which hosts and buckets images are fetched from."""

from __future__ import annotations

import pytest

from publisher.core.errors import InvalidRequest
from publisher.services.image_sources import check_remote


@pytest.mark.parametrize("allowed", ["*", "*/*", "bucket", "*bucket", "s3:*", "http://bucket", "s3://other"])
def test_no_bucket_is_admitted_by_what_is_meant_for_hosts(allowed: str) -> None:
    with pytest.raises(InvalidRequest, match="'bucket' is not among PUBLISHER_LOCATION_HOSTS"):
        check_remote("s3://bucket/disk.raw", allowed)


@pytest.mark.parametrize("allowed", ["*, s3://bucket", "s3://*", "S3://buck*"])
def test_buckets_that_are_admitted(allowed: str) -> None:
    check_remote("s3://bucket/disk.raw", allowed)


def test_an_asterisk_allows_all_hosts() -> None:
    check_remote("https://images.example.com/disk.raw", "*")
