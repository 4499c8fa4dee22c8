"""Google Compute Engine: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.common_fields import CERTIFICATES
from publisher.platforms.fields import strings
from publisher.platforms.platform import Platform

GOOGLE = Platform(
    "google",
    "Google",
    CERTIFICATES,
    strings("bucket", "bucketLocation", "diskNamePrefix", "description", "projectId", "storageClass", "zoneName"),
)
