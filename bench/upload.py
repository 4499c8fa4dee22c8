"""Compare uploads of one image to the same Glance by this service and by other clients: wall time, CPU and memory.

All contenders send the same file several times, in turn. The output shows medians and ratios. Our figures cover the
whole path from the POST to the ticket's end, including the ticket store, the queue, the lease, progress and
verification. The others only upload into an image record that exists already, except for the `openstack` command,
which creates its own.

Then it measures small tickets of an account that was used before: the time from the POST to the first byte at Glance,
and the CPU that the worker needs apart from the bytes. Workers of an earlier commit (`--before`) get every other ticket
of both sizes, so that a change is a ratio from one run. Last comes what a preflight adds to an attempt.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import socketserver
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench import preflight
from bench.earlier import BEFORE_RANGES
from publisher.core.settings import Settings
from publisher.devcloud.cloud import DevCloud
from publisher.store import Store
from tests.records import add_ticket
from tests.servers.redis import redis_server
from tests.stack import REPOSITORY, Stack, cpu_seconds

GLANCECLIENT = """
import os, sys
from glanceclient import Client
from keystoneauth1 import session
from keystoneauth1.identity import v3
e = os.environ
auth = v3.Password(e["OS_AUTH_URL"], username=e["OS_USERNAME"], password=e["OS_PASSWORD"],
                   user_domain_name=e["OS_USER_DOMAIN_NAME"], project_name=e["OS_PROJECT_NAME"],
                   project_domain_name=e["OS_PROJECT_DOMAIN_NAME"])
Client("2", session=session.Session(auth)).images.upload(sys.argv[1], open(sys.argv[2], "rb"))
"""

SINK = """
import socket, sys
receiver, buffer = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), bytearray(1 << 16)
while receiver.recv_into(buffer):
    pass
"""


_OURS = {"now": "ours", "before": "ours, before"}
"""What the table calls our service, by its state."""


@dataclass(frozen=True)
class Run:
    """Seconds, seconds of CPU, bytes of memory."""

    wall: float
    cpu: float
    memory: int


class Cloud:
    """What the contenders need of the cloud, through plain REST."""

    def __init__(self, cloud: DevCloud) -> None:
        self.devcloud = cloud
        self.env = cloud.env()
        self.token = self._token()

    def make_record(self) -> str:
        body = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
        made: dict[str, Any] = self._rest("POST", "/v2/images", body)
        return str(made["id"])

    def check_and_delete(self, image_id: str, size: int) -> None:
        found: dict[str, Any] = self._rest("GET", f"/v2/images/{image_id}")
        assert (found["status"], found["size"]) == ("active", size), found
        self._rest("DELETE", f"/v2/images/{image_id}")

    def ids(self) -> list[str]:
        listed: dict[str, Any] = self._rest("GET", "/v2/images")
        return [image["id"] for image in listed["images"]]

    def _rest(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310
            self.devcloud.glance_url + path,
            json.dumps(body).encode() if body else None,
            {"X-Auth-Token": self.token, "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            raw = answer.read()
        return json.loads(raw) if raw else None

    def _token(self) -> str:
        env = self.env
        domain = {"name": env["OS_USER_DOMAIN_NAME"]}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {"name": env["OS_USERNAME"], "domain": domain, "password": env["OS_PASSWORD"]}
                    },
                },
                "scope": {"project": {"name": env["OS_PROJECT_NAME"], "domain": domain}},
            }
        }
        request = urllib.request.Request(  # noqa: S310
            env["OS_AUTH_URL"] + "/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.headers["X-Subject-Token"])


def command(argv: list[str], env: dict[str, str]) -> Run:
    """Run a client as a whole process."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ended, peaks = threading.Event(), [0]
    watch = threading.Thread(target=_watch_peak, args=(process.pid, ended, peaks))
    watch.start()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    ended.set()
    watch.join()
    if status:
        assert process.stderr
        raise SystemExit(f"{argv[0]} failed: {process.stderr.read().decode()[-500:]}")
    return Run(wall, used.ru_utime + used.ru_stime, peaks[0])


def peak_memory(pid: int) -> int:
    """Return the largest size that the process has had, in bytes (proc(5), VmHWM).

    The `ru_maxrss` of a child is of no use here: it starts with the parent's.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _watch_peak(pid: int, ended: threading.Event, peaks: list[int]) -> None:
    while not ended.wait(0.05):
        with contextlib.suppress(OSError):
            peaks[0] = max(peaks[0], peak_memory(pid))


def contenders(cloud: Cloud, stacks: dict[str, Stack], file: Path, size: int) -> dict[str, Callable[[], Run]]:
    """Return the ways to send the file. Those of our service are `ours`, and `ours, before` if there is one."""

    def into_record(argv: Callable[[str], list[str]], env: dict[str, str]) -> Run:
        image_id = cloud.make_record()
        run = command(argv(image_id), env)
        cloud.check_and_delete(image_id, size)
        return run

    def curl() -> Run:
        return into_record(
            lambda image_id: [
                "curl", "-sSf", "-T", str(file), "-H", "Expect:", "-H", f"X-Auth-Token: {cloud.token}",
                "-H", "Content-Type: application/octet-stream",
                f"{cloud.devcloud.glance_url}/v2/images/{image_id}/file",
            ],
            {},
        )  # fmt: skip

    def glanceclient() -> Run:
        return into_record(
            lambda image_id: [sys.executable, "-W", "ignore", "-c", GLANCECLIENT, image_id, str(file)], cloud.env
        )

    def openstack() -> Run:
        before = set(cloud.ids())
        argv = [str(cloud.devcloud.openstack()), "image", "create", "--file", str(file), "--disk-format", "raw"]
        run = command([*argv, "--container-format", "bare", "bench"], cloud.env)
        cloud.check_and_delete((set(cloud.ids()) - before).pop(), size)
        return run

    ours = {_OURS[name]: partial(publish, cloud, stack, size) for name, stack in stacks.items()}
    return {"curl -T": curl, **ours, "glanceclient": glanceclient, "openstack image create": openstack}


def request(cloud: Cloud, image_uri: str, glance_url: str | None = None) -> dict[str, Any]:
    env = cloud.env
    return {
        "@type": "PublishImageOpenStack",
        "imageUri": image_uri,
        "credAccount": {
            "@type": "CredAccountOpenStack",
            "glanceUrl": glance_url or cloud.devcloud.glance_url,
            "keystoneUrl": cloud.devcloud.keystone_url,
            "login": env["OS_USERNAME"],
            "password": env["OS_PASSWORD"],
            "keystoneVersion": "v3",
        },
        "keystoneDomain": env["OS_PROJECT_DOMAIN_NAME"],
        "keystoneProject": env["OS_PROJECT_NAME"],
        "displayName": "bench",
    }


def publish(cloud: Cloud, stack: Stack, size: int) -> Run:
    image = next(image for image in stack.store.images.list() if image.size == size)
    pid = stack.workers[0].process.pid
    worker = psutil.Process(pid)
    idle = worker.memory_info().rss
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # start a new peak (proc(5))
    cpu = cpu_seconds(pid)
    started = time.perf_counter()
    ticket = stack.publish(request(cloud, f"users/root/appliances/4/images/{image.id}"))
    status = stack.wait(ticket, 600)
    wall = time.perf_counter() - started
    if not status["complete"]:
        raise SystemExit(f"our publication failed: {status}")
    run = Run(wall, cpu_seconds(pid) - cpu, peak_memory(pid) - idle)
    cloud.check_and_delete(stack.call("GET", ticket["uri"]).json["cloudId"], size)
    return run


# Small tickets: the time to the first byte, and the CPU apart from the bytes ------------------------------------------


_HEAD_BYTES = 1 << 14
_SMALL_BYTES = 16 << 20


class FirstByte(socketserver.ThreadingTCPServer):
    """A proxy in front of Glance, which records when the first byte of an image passes."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.target = target
        self.seen: list[float] = []


class Passing(socketserver.BaseRequestHandler):
    server: FirstByte

    def handle(self) -> None:
        # Either side may close the connection at any time.
        with contextlib.suppress(OSError), socket.create_connection(self.server.target) as onward:
            back = threading.Thread(target=self._back, args=(onward,), daemon=True)
            back.start()
            head = b""
            while data := self.request.recv(1 << 16):
                if len(head) < _HEAD_BYTES:
                    head += data
                    if head.startswith(b"PUT ") and head.partition(b"\r\n\r\n")[2]:
                        self.server.seen.append(time.perf_counter())
                        head = b" " * _HEAD_BYTES
                onward.sendall(data)
            onward.shutdown(socket.SHUT_WR)
            back.join()

    def _back(self, onward: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := onward.recv(1 << 16):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class SmallTicket:
    """Seconds to the first byte, and seconds of the worker's CPU more than without a ticket."""

    first_byte: float
    cpu: float


def small_tickets(cloud: Cloud, stacks: dict[str, Stack], file: Path, runs: int) -> dict[str, list[SmallTicket]]:
    """Publish a small image by each stack in turn, with an idle worker and an account that was used before."""
    host, port = cloud.devcloud.glance_url.removeprefix("http://").split(":")
    measured: dict[str, list[SmallTicket]] = {name: [] for name in stacks}
    images = {name: stack.add_image(file) for name, stack in stacks.items()}
    idle = {name: idle_cpu(stack.workers[0].process.pid) for name, stack in stacks.items()}
    with FirstByte((host, int(port))) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        for run in range(runs + 1):
            for name, stack in stacks.items():
                pid = stack.workers[0].process.pid
                cpu, started = process_seconds(pid), time.perf_counter()
                ticket = stack.publish(request(cloud, f"users/root/appliances/4/images/{images[name].id}", url))
                status = stack.wait(ticket, 60)
                if not status["complete"]:
                    raise SystemExit(f"our publication failed: {status}")
                time.sleep(1)  # for what the worker does afterwards, such as sending events
                cpu = process_seconds(pid) - cpu - idle[name] * (time.perf_counter() - started)
                if run:  # the first signs in
                    measured[name].append(SmallTicket(proxy.seen[-1] - started, cpu))
                cloud._rest("DELETE", f"/v2/images/{stack.call('GET', ticket['uri']).json['cloudId']}")
        proxy.shutdown()
    return measured


def process_seconds(pid: int) -> float:
    """Return the CPU time of a process. psutil's has a resolution of 10 ms only (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def idle_cpu(pid: int, seconds: float = 20.0) -> float:
    """Return the CPU seconds that a process without work needs per second."""
    cpu = process_seconds(pid)
    time.sleep(seconds)
    return (process_seconds(pid) - cpu) / seconds


def sendfile_cpu(file: Path) -> float:
    """Return the CPU seconds that a bare loop of sendfile(2) needs for a file, to a receiver on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server, file.open("rb") as source:
        receiver = subprocess.Popen(
            [sys.executable, "-c", SINK, str(server.getsockname()[1])], stdin=subprocess.DEVNULL
        )
        connection, _ = server.accept()
        with connection:
            cpu, sent, size = time.thread_time(), 0, file.stat().st_size
            while sent < size:
                sent += os.sendfile(connection.fileno(), source.fileno(), sent, 1 << 20)
            cpu = time.thread_time() - cpu
        receiver.wait()
    return cpu


def progress_cpu(directory: Path, updates: int = 40) -> float:
    """Return the CPU seconds of one progress update with a sample, including the ticket store (SQLite).

    Between two updates there is a pause, as in an upload: without one, the caches of the processor would help.
    """
    store = Store.open(Settings(data_dir=directory))
    store.migrate()
    claim = store.leases.claim(add_ticket(store).id, "bench", 600)
    assert claim
    taken = []
    for sent in range(updates):
        time.sleep(0.25)
        cpu = time.thread_time()
        store.leases.renew(claim, 600, sent=sent, sample=True)
        taken.append(time.thread_time() - cpu)
    store.close()
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="size of the image in MiB (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="uploads by each contender (default: %(default)s)")
    parser.add_argument(
        "--first-byte-runs",
        type=int,
        default=20,
        help="small tickets, for the time to the first byte and the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--before",
        metavar="COMMIT",
        default=BEFORE_RANGES,
        help="also measure the workers of this commit; '' for none (default: %(default)s)",
    )
    given = parser.parse_args()
    console = Console(width=120)
    venv = Path(os.environ.get("PUBLISHER_DEVCLOUD_VENV", ".venv-devcloud"))
    with tempfile.TemporaryDirectory(prefix="publisher-bench-") as name:
        directory = Path(name)
        devcloud = DevCloud(directory / "cloud", venv)
        devcloud.up(say=console.print)
        try:
            measure(Cloud(devcloud), directory, given, console)
        finally:
            devcloud.down()


def measure(cloud: Cloud, directory: Path, given: argparse.Namespace, console: Console) -> None:
    file, small = directory / "large.raw", directory / "small.raw"
    size, small_size = given.mib << 20, 256 << 20
    write_random(file, size)
    write_random(small, small_size)
    with redis_server() as redis:
        # Those of an installation. Those of `Stack` cost an idle worker 3 % of a core.
        defaults: dict[str, Any] = {
            name: getattr(Settings(), name)
            for name in ("lease_seconds", "lease_renew_seconds", "progress_seconds", "reconcile_seconds")
        }
        with Stack.in_directory(directory / "data", redis.url, **defaults) as stack, contextlib.ExitStack() as others:
            stacks = {"now": stack}
            if given.before:
                own = others.enter_context(redis_server())
                before = Stack.in_directory(directory / "before", own.url, **defaults)
                before.workers_code = checked_out(given.before, directory / "code")
                stacks["before"] = others.enter_context(before)
            for each in stacks.values():
                image = each.add_image(file, link=True)
                other = each.add_image(small, link=True)
            tiny = directory / "tiny.raw"
            write_random(tiny, _SMALL_BYTES)
            runs: dict[str, list[Run]] = {}
            ways = contenders(cloud, stacks, file, image.size)
            for each in stacks.values():
                publish(cloud, each, other.size)  # a first run, not counted
            for turn in range(given.runs):
                for name, way in ways.items():
                    runs.setdefault(name, []).append(way())
                    console.print(f"  {turn + 1}/{given.runs} {name}: {runs[name][-1].wall:.2f} s")
            small_runs = [publish(cloud, stack, other.size) for _ in range(given.runs)]
            small_ones = small_tickets(cloud, stacks, tiny, given.first_byte_runs)
            preflights = preflight.measure(request(cloud, ""), tiny, given.first_byte_runs)
    print_table(console, runs, given.mib)
    peak, small_peak = (statistics.median(run.memory for run in each) / 2**20 for each in (runs["ours"], small_runs))
    console.print(f"Worker's peak memory above idle: {peak:.1f} MiB for {given.mib} MiB, {small_peak:.1f} for 256 MiB")
    print_small(console, small_ones)
    console.print(preflight.table(preflights))
    console.print(
        f"CPU of a bare sendfile loop: {sendfile_cpu(file) / given.mib * 1024:.3f} s per GiB;"
        f" of a progress update: {progress_cpu(directory / 'progress') * 1000:.2f} ms"
    )


def checked_out(commit: str, directory: Path) -> Path:
    """Write the files of an earlier commit to a directory. Ends the program if this clone does not have it."""
    command = ["git", "archive", commit]
    made = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if made.returncode:
        raise SystemExit(f"this clone lacks {commit}: {made.stderr.decode().strip()}; use --before '' to do without it")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


def print_small(console: Console, measured: dict[str, list[SmallTicket]]) -> None:
    title = f"A ticket of {_SMALL_BYTES >> 20} MiB, idle worker, account used before; medians of interleaved runs"
    table = Table("workers", "first byte s", "from … to", "CPU ms", title=title)
    for name, each in measured.items():
        first = [one.first_byte for one in each]
        table.add_row(
            name,
            f"{statistics.median(first):.3f}",
            f"{min(first):.3f} … {max(first):.3f}",
            f"{statistics.median(one.cpu for one in each) * 1000:.1f}",
        )
    console.print(table)


def print_table(console: Console, runs: dict[str, list[Run]], mib: int) -> None:
    gib = mib / 1024
    title = f"{mib} MiB into one Glance on loopback, medians of {len(next(iter(runs.values())))} interleaved runs"
    table = Table(
        *("client", "wall s", "MiB/s", "wall / curl's", "/ before", "CPU s per GiB", "CPU / curl's", "/ before"),
        "memory MiB",
        title=title,
    )
    base, before = runs["curl -T"], runs.get(_OURS["before"])
    for name, each in runs.items():
        wall, cpu = statistics.median(run.wall for run in each), statistics.median(run.cpu for run in each)
        pairs = list(zip(each, base, strict=True))
        earlier = list(zip(each, before, strict=True)) if before and name == _OURS["now"] else []
        memory = statistics.median(run.memory for run in each) / 2**20
        table.add_row(
            name,
            f"{wall:.2f}",
            f"{mib / wall:.0f}",
            f"{statistics.median(run.wall / other.wall for run, other in pairs):.3f}",
            f"{statistics.median(run.wall / other.wall for run, other in earlier):.3f}" if earlier else "",
            f"{cpu / gib:.3f}",
            f"{statistics.median(run.cpu / other.cpu for run, other in pairs):.2f}",
            f"{statistics.median(run.cpu / other.cpu for run, other in earlier):.2f}" if earlier else "",
            f"{memory:.0f}" + (" above idle" if name in _OURS.values() else ""),
        )
    console.print(table)


def write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


if __name__ == "__main__":
    main()
