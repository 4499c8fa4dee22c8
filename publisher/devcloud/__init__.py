"""A real Keystone and Glance on loopback, in a virtual environment of their own."""

from publisher.devcloud.cloud import DevCloud
from publisher.devcloud.config import DevCloudError
from publisher.devcloud.identity import ADMIN, DEMO, STRANGER, UPLOADER, USERS, CloudUser

__all__ = ["ADMIN", "DEMO", "STRANGER", "UPLOADER", "USERS", "CloudUser", "DevCloud", "DevCloudError"]
