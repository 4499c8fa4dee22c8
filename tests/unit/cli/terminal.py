"""Run the command on its own pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys


def on_a_terminal(*arguments: str, answer: str | None = None, terminal: str = "dumb") -> tuple[int, str]:
    """Return the exit code and everything that the terminal shows. `answer` is typed once, followed by Return."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "publisher.cli.main", *arguments]
    environment = os.environ | {"COLUMNS": "120", "TERM": terminal}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        if answer is not None:
            os.write(ours, f"{answer}\n".encode())
        shown = b""
        with contextlib.suppress(OSError):  # raised at the end of a terminal's output
            while piece := os.read(ours, 65536):
                shown += piece
        return process.wait(60), shown.decode().replace("\r\n", "\n")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
