"""`make chaos MINUTES=10 SEED=1 STORE=postgresql BROKER=rabbitmq`: exits with 0 if the promise was kept."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from publisher.devcloud.cloud import DevCloud
from tests.chaos.run import BROKERS, STORES, Plan, chaos
from tests.devcloud_venv import devcloud_venv


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, help="the same seed, the same faults; random where none is given")
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--broker", choices=BROKERS, default="embedded")
    parser.add_argument("--keep", action="store_true", help="keep the logs though all is well")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    cloud = DevCloud(directory / "cloud", devcloud_venv())
    started = time.monotonic()
    kept = False
    try:
        cloud.up(say=_say)
        kept = chaos(Plan(seed, given.minutes, given.store, given.broker), directory, cloud, _say)
    finally:
        cloud.down()
        if kept and not given.keep:
            shutil.rmtree(directory)
        else:
            # The evidence is in the logs; the images are large.
            shutil.rmtree(directory / "cloud" / "glance" / "images", ignore_errors=True)
            _say(f"Logs, faults and evidence are kept in {directory}")
    _say(f"make chaos took {time.monotonic() - started:.0f} s")
    return 0 if kept else 1


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
