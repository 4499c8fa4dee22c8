"""How long tests wait.

Tests wait for conditions, and time limits only reveal a hang. The limits fit an idle machine with two cores. They are
multiplied by PATIENCE, so that a slow or busy machine can keep them, too.
"""

from __future__ import annotations

PATIENCE = 10
