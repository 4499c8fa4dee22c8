"""Google Compute Engine: the elements of the API. No plugin of this distribution publishes to it yet."""

from __future__ import annotations

from publisher.platforms.platform import CERTIFICATES, Platform, strings

GOOGLE = Platform(
    "google",
    "Google",
    CERTIFICATES,
    strings("bucket", "bucketLocation", "diskNamePrefix", "description", "projectId", "storageClass", "zoneName"),
)
