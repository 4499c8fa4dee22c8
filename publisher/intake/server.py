"""Run the intake: `python -m publisher.intake.server --port 8000`. Takes uvicorn's options, which follow our own.

`publisher serve` and `publisher up` start it in the same way, so all connections obey `publisher.intake.connection`.
"""

from __future__ import annotations

import sys

from uvicorn.main import main

from publisher.core.garbage import collect_rarely

OPTIONS = (
    *("--factory", "publisher.app:create_app", "--http", "publisher.intake.connection:CallerConnection"),
    *("--loop", "uvloop", "--ws", "none", "--no-server-header"),
)

if __name__ == "__main__":
    collect_rarely()  # before the app is imported
    main([*OPTIONS, *sys.argv[1:]], prog_name="publisher.intake.server")
