"""Versions of this software, and of the API it speaks."""

__version__ = "0.1.0"

UFORGE_API_VERSION = "3.8.13"
"""What `serviceStatus/version` says: existing clients of the UForge API refuse to talk to any other."""
