"""Format the examples at the end of a command's help."""

from __future__ import annotations

from rich.markup import escape


def examples(*commands: str) -> str:
    """Put each command on a line of its own, as it is typed."""
    # In help texts, only an empty line starts a new line.
    return "\n\n".join(["Examples:", *(escape(f"  $ publisher {each}") for each in commands)])
