"""Random ids (UUID, version 4) for several objects at a time."""

from __future__ import annotations

import os
from uuid import UUID

_BYTES = 16


def unique_ids(count: int) -> list[str]:
    """Return so many new ids. All their randomness is read at once: a read lets the other threads go first."""
    random = os.urandom(_BYTES * count)
    return [str(UUID(bytes=random[at : at + _BYTES], version=4)) for at in range(0, len(random), _BYTES)]
