"""Run several `keystone-manage` or `glance-manage` commands in about the time of one.

Call: `python -P manage.py MODULE PROGRAM COMMANDS`, where COMMANDS is a JSON list of argument lists. Most of the time
of such a command goes into imports. So this imports once and runs each command in a fork: a command needs its own
process, because the configuration is global. Exits with the first exit status that is not 0.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def _run_and_exit(main: Callable[[], object], arguments: list[str]) -> NoReturn:
    sys.argv = arguments
    status = 1
    try:
        main()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(module: str, program: str, commands: list[list[str]]) -> int:
    """Run the commands one after the other. Return the first exit status that is not 0, or 0."""
    main = importlib.import_module(module).main
    for command in commands:
        child = os.fork()
        if child == 0:
            _run_and_exit(main, [program, *command])
        _, status = os.waitpid(child, 0)
        if status:
            return abs(os.waitstatus_to_exitcode(status))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
