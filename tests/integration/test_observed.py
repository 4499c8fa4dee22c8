"""Operators can follow a publication from the POST to its end through logs, metrics and traces of real processes."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.servers.process import free_port
from tests.servers.redis import RedisServer
from tests.stack import REPOSITORY, Stack, until

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(4 << 20))
    return file


def publish(stack: Stack, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    """Publish, and return the ticket after it has ended."""
    answer = stack.call(
        "POST",
        "users/root/appliances/4/pimages",
        json.dumps(body).encode(),
        content_type="application/json",
        headers={"X-Request-Id": request_id},
    )
    assert (answer.status, answer.headers["X-Request-Id"]) == (201, request_id)
    ticket: dict[str, Any] = answer.json
    stack.wait(ticket)
    return ticket


def test_a_request_id_follows_a_request_through_the_logs(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with Stack.in_directory(tmp_path / "data", redis.url, log_format="json") as stack:
        stack.add_image(file, id=7)
        ticket = publish(stack, publish_body(devcloud, URI), "followed-1")
        worker = stack.store.tickets.get(ticket["dbId"]).worker  # type: ignore[union-attr]  # it is there
    logs = {each.name: [json.loads(line) for line in each.read_text().splitlines() if line.startswith("{")]
            for each in stack.logs.iterdir()}  # fmt: skip
    followed = {
        name: [each for each in lines if each.get("request_id") == "followed-1"] for name, lines in logs.items()
    }
    posted = [each["message"] for each in followed["intake.log"]]
    assert any("POST /api/users/root/appliances/4/pimages" in each for each in posted), posted
    done = followed["worker0.log"]
    assert [each["message"] for each in done] == [
        f"ticket {ticket['dbId']}: claimed, attempt 1",
        f"ticket {ticket['dbId']}: published",
    ]
    assert all((each["ticket"], each["attempt"], each["worker"]) == (ticket["dbId"], 1, worker) for each in done)
    for name, lines in logs.items():
        plain = [line for line in (stack.logs / name).read_text().splitlines() if not line.startswith("{")]
        # Only uvicorn's lines from before it has loaded the app and its log settings, and Celery's banner.
        assert all("INFO:  " in line or name == "worker0.log" for line in plain), plain
        assert lines


# Metrics --------------------------------------------------------------------------------------------------------


def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20 * PATIENCE) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def health(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_metrics_of_intake_and_worker_agree_with_the_store(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    port = free_port()
    with Stack.in_directory(tmp_path / "data", redis.url, worker_metrics_port=port, heartbeat_seconds=0.2) as stack:
        assert health(port, "/readyz")[0] == 200
        stack.add_image(file, id=7)
        publish(stack, publish_body(devcloud, URI), "r-1")
        publish(stack, publish_body(devcloud, URI, account__password="wrong-of-tests"), "r-2")
        counts, failures = stack.store.statistics.counts(), stack.store.statistics.failures(3600)
        assert counts == {("openstack", State.PUBLISHED): 1, ("openstack", State.FAILED): 1}
        intakes, workers = scrape(stack.settings.intake_port), scrape(port)
        for found in (intakes, workers):
            tickets = {labels: value for (name, labels), value in found.items() if name == "publisher_tickets"}
            assert {labels: value for labels, value in tickets.items() if value} == {
                frozenset({("platform", platform), ("state", state.value)}): count
                for (platform, state), count in counts.items()
            }
            recent = {
                dict(labels)["reason"]: value
                for (name, labels), value in found.items()
                if name == "publisher_recent_failures" and ("window", "1h") in labels and value
            }
            assert recent == failures == {"credentials": 1}
            assert found["publisher_workers", frozenset({("state", "alive")})] == 1
        cloud = ("platform", "openstack")
        assert workers["publisher_uploaded_bytes_total", frozenset({cloud})] == 4 << 20
        assert workers["publisher_attempts_total", frozenset({cloud, ("outcome", "published")})] == 1
        assert workers["publisher_failures_total", frozenset({cloud, ("reason", "credentials")})] == 1
        complete = frozenset({cloud, ("outcome", "complete")})
        assert workers["publisher_upload_duration_seconds_count", complete] == 1
        route = ("route", "/api/users/{uid}/appliances/{aid}/pimages")
        posted = frozenset({("method", "POST"), ("status", "201"), route})
        assert intakes["publisher_http_requests_total", posted] == 2


def test_a_worker_without_its_broker_is_not_ready(tmp_path: Path, redis: RedisServer) -> None:
    port = free_port()
    with Stack.in_directory(tmp_path / "data", redis.url, worker_metrics_port=port) as stack:
        until(lambda: health(port, "/readyz")[0] == 200, 20)
        redis.kill()
        try:
            until(lambda: health(port, "/readyz")[0] == 503, 30)
            assert health(port, "/readyz")[1]["checks"]["consumer"]["ok"] is False
            assert health(port, "/healthz")[0] == 200
            status, report = health(stack.settings.intake_port, "/readyz")
            assert (status, report["checks"]["broker"]["ok"]) == (200, False)
        finally:
            redis.start()
        until(lambda: health(port, "/readyz")[0] == 200, 60)


def test_the_processes_of_an_intake_share_their_counters(tmp_path: Path, redis: RedisServer) -> None:
    with Stack.in_directory(tmp_path / "data", redis.url, workers=0) as stack:
        port = free_port()
        environment = os.environ | stack.settings.environment() | {"PUBLISHER_INTAKE_PORT": str(port)}
        with (stack.logs / "two.log").open("wb") as log:
            two = subprocess.Popen(
                [sys.executable, "-m", "publisher.cli.main", "serve", "--workers", "2"],
                cwd=REPOSITORY, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:

            def answers() -> bool:
                try:
                    return health(port, "/healthz")[0] == 200
                except OSError:
                    return False

            until(answers, 60, (stack.logs / "two.log").read_text)
            before = lives(port)
            for _ in range(40):
                health(port, "/healthz")
            told = {lives(port) - before for _ in range(10)}
            assert told == {40.0}, "whichever of them is asked"
        finally:
            two.terminate()
            two.wait(20 * PATIENCE)
        plain = [line for line in (stack.logs / "two.log").read_text().splitlines() if line.startswith("INFO:")]
        assert plain == [], "the parent's lines have our form, too"


def lives(port: int) -> float:
    asked = frozenset({("method", "GET"), ("route", "/healthz"), ("status", "200")})
    return scrape(port)["publisher_http_requests_total", asked]


# Traces ---------------------------------------------------------------------------------------------------------


class Received:
    """The spans that an OTLP receiver got, each with the name of the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    def take(self, body: bytes) -> None:
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in each.resource.attributes}
            self.spans += [(named["service.name"], span) for scope in each.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        return [span for _, span in self.spans if span.name == name]


@contextmanager
def receiver() -> Iterator[tuple[str, Received]]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name for it
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                received.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the requests out of the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


def test_one_trace_covers_the_post_and_the_attempt(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with receiver() as (url, received):
        stack = Stack.in_directory(tmp_path / "data", redis.url)
        stack.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with stack:
            stack.add_image(file, id=7)
            ticket = publish(stack, publish_body(devcloud, URI), "r-1")
            stack.call("GET", f"{ticket['statusUri']}?apiKey=k&signature=a-signature-of-tests", login=None)
        (post,) = received.named("POST /api/users/{uid}/appliances/{aid}/pimages")
        (attempt,) = received.named("publish")
        assert {name for name, _ in received.spans} == {"publisher-intake", "publisher-worker"}
        assert (attempt.trace_id, attempt.parent_span_id) == (post.trace_id, post.span_id)
        steps = [span.name for _, span in received.spans if span.parent_span_id == attempt.span_id]
        assert sorted(steps) == ["authenticating", "finishing", "uploading", "verifying"]
        told = {each.key: each.value for each in attempt.attributes}
        assert told["publisher.outcome"].string_value == "published"
        assert told["publisher.bytes"].int_value == 4 << 20
        assert "a-signature-of-tests" not in str(received.spans)


def test_tracing_is_not_loaded_without_an_endpoint(tmp_path: Path) -> None:
    # redis itself imports other parts of OpenTelemetry if they are installed.
    code = (
        "import sys, workers.runner, publisher.app; from publisher.telemetry import tracing;"
        "assert tracing.configure('x') is None;"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter'))])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
