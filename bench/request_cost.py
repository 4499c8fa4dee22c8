"""Measure the CPU time of single requests to the intake, inside one process and without a connection.

It is the time of all threads of the process: of the framework, our routes, the store (SQLite) and the driver of the
requests. With `--against DIRECTORY`, another working tree of this repository is measured in the same rounds, in turn,
and the output shows ratios. Its own environment (`.venv`) is used if it has one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOGIN, PASSWORD = "root", "a-password-of-benchmarks"
BODY = (
    b'<n:publishImage xmlns:n="http://www.usharesoft.com/uforge"><credAccount>'
    b"<targetPlatform><name>openstack</name></targetPlatform><glanceUrl>http://127.0.0.1:9292</glanceUrl>"
    b"<keystoneUrl>http://127.0.0.1:5000</keystoneUrl><login>demo</login><password>secret</password>"
    b"<keystoneVersion>v3</keystoneVersion></credAccount><displayName>an image</displayName>"
    b"<keystoneDomain>Default</keystoneDomain><keystoneProject>demo</keystoneProject></n:publishImage>"
)


class Measured:
    """An intake over a new store, and the requests to it."""

    def __init__(self, directory: Path) -> None:
        from publisher.app import create_app
        from publisher.core.image import Digests
        from publisher.core.settings import Settings
        from publisher.store import Store

        class NoWaker:
            def send(self, *ticket_ids: int) -> None:
                """Wake nobody."""

            def send_image(self, *image_ids: int) -> None:
                """Wake nobody."""

            def send_check(self, *check_ids: int) -> None:
                """Wake nobody."""

        settings = Settings(data_dir=directory)
        store = Store.open(settings)
        store.migrate()
        store.users.add(LOGIN, PASSWORD, administrator=True)
        digests = Digests(1 << 20, "5" * 32, "2" * 64, "f" * 128)
        image = store.images.add(
            owner=LOGIN,
            appliance_id=4,
            name="image",
            format="qcow2",
            disk_format="qcow2",
            virtual_size=1 << 20,
            digests=digests,
            location="7/disk.qcow2",
        )
        store.close()
        self._app: Any = create_app(settings, waker=NoWaker())
        self._images = f"/api/users/{LOGIN}/appliances/4/images/{image.id}/pimages"
        self._loop = asyncio.new_event_loop()
        created = json.loads(self._request("POST", self._images, BODY, accept="application/json")[2])
        status = f"{self._images}/{created['dbId']}/status"
        etag = dict(self._request("GET", status)[1])[b"etag"]
        self.cases: dict[str, tuple[Callable[[], tuple[int, Any, bytes]], int]] = {
            "/healthz": (lambda: self._request("GET", "/healthz", login=False), 200),
            "no such path": (lambda: self._request("GET", "/api/nothing", login=False), 404),
            "no login": (lambda: self._request("GET", status, login=False), 401),
            "poll": (lambda: self._request("GET", status), 200),
            "poll, 304": (lambda: self._request("GET", status, more=[(b"if-none-match", etag)]), 304),
            "list of roles": (lambda: self._request("GET", f"/api/users/{LOGIN}/roles"), 200),
            "publish": (lambda: self._request("POST", self._images, BODY), 201),
        }

    def seconds(self, case: str, count: int) -> float:
        """Return the CPU time of one request, the mean of `count`."""
        send, status = self.cases[case]
        began = time.process_time()
        for _ in range(count):
            if (answered := send()[0]) != status:
                raise RuntimeError(f"{case}: the answer is {answered}, not {status}")
        return (time.process_time() - began) / count

    def _request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        login: bool = True,
        accept: str = "application/xml",
        more: list[tuple[bytes, bytes]] | None = None,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        headers = [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"bench"), (b"accept", accept.encode())]
        if login:
            headers.append((b"authorization", b"Basic " + b64encode(f"{LOGIN}:{PASSWORD}".encode())))
        if body:
            headers += [(b"content-type", b"application/xml"), (b"content-length", str(len(body)).encode())]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": headers + (more or []),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        answer: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            answer.append(message)

        self._loop.run_until_complete(self._app(scope, receive, send))
        return answer[0]["status"], answer[0]["headers"], answer[1].get("body", b"")


def measure() -> None:
    """Measure what the lines of standard input ask for: a case and a number of requests. Print the seconds."""
    with tempfile.TemporaryDirectory() as directory:
        measured = Measured(Path(directory))
        print(*measured.cases, sep="\t", flush=True)
        for line in sys.stdin:
            case, count = line.rstrip("\n").split("\t")
            print(measured.seconds(case, int(count)), flush=True)


def begun(tree: Path) -> subprocess.Popen[str]:
    """Start the process that measures a working tree."""
    own = tree / ".venv" / "bin" / "python"
    command = [str(own) if own.exists() else sys.executable, str(Path(__file__).resolve()), "--measure"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.Popen(
        command, cwd=tree, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ask(process: subprocess.Popen[str], case: str, count: int) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{case}\t{count}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another working tree to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=100, help="requests of each kind in a round")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    trees = [REPOSITORY, *([options.against.resolve()] if options.against else [])]
    processes = [begun(tree) for tree in trees]
    listed = [process.stdout.readline().rstrip("\n").split("\t") for process in processes if process.stdout]
    cases = listed[0]
    seconds: dict[str, list[list[float]]] = {case: [[] for _ in trees] for case in cases}
    for round in range(options.rounds + 1):
        for case in cases:
            for number, process in enumerate(processes):
                taken = ask(process, case, options.requests)
                if round:  # the first only warms up
                    seconds[case][number].append(taken)
    for process in processes:
        process.communicate()
    print(f"CPU time of one request in milliseconds, median of {options.rounds} rounds of {options.requests}")
    for case, each_tree in seconds.items():
        medians = [1000 * statistics.median(each) for each in each_tree]
        ratio = (
            statistics.median(own / other for own, other in zip(*each_tree, strict=True))
            if len(each_tree) > 1
            else None
        )
        print(f"{case:16}" + "".join(f"{each:9.3f}" for each in medians) + (f"   ratio {ratio:.2f}" if ratio else ""))


if __name__ == "__main__":
    main()
