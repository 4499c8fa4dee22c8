"""Examples at the end of a command's help."""

from __future__ import annotations

from rich.markup import escape


def examples(*commands: str) -> str:
    """Each on a line of its own, as it is typed."""
    # An empty line is what makes a new one there.
    return "\n\n".join(["Examples:", *(escape(f"  $ publisher {each}") for each in commands)])
