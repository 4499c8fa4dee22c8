"""How long tests wait.

Tests wait for what must have happened, and give up only so that a hang is noticed. Their limits are those of an idle
machine with two cores; a slow one, or one whose cores are busy with something else, has PATIENCE times as long.
"""

from __future__ import annotations

PATIENCE = 10
