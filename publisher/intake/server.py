"""The intake as a process: `python -m publisher.intake.server --port 8000`. It takes uvicorn's options, after ours.

However the intake is started, its connections end in time and answer errors as `publisher.intake.connection` has it.
"""

from __future__ import annotations

import sys

from uvicorn.main import main

OPTIONS = (
    *("--factory", "publisher.app:create_app", "--http", "publisher.intake.connection:CallerConnection"),
    *("--ws", "none", "--no-server-header"),
)

if __name__ == "__main__":
    main([*OPTIONS, *sys.argv[1:]], prog_name="publisher.intake.server")
