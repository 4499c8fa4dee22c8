"""Monitoring of the intake: metrics and health checks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError

from publisher.app import Intake
from publisher.core.errors import ConfigurationError, Reason
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.store.database import db_now, notifications, sightings, writing
from publisher.store.fleet import Member
from publisher.telemetry.metrics_access import Monitors
from tests.records import put_back
from tests.service import JSON, Answer, Service, ticket_path

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]
TOKEN = "a-token-of-tests"


@pytest.fixture
def local(start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """Starts an intake whose caller is on this machine."""
    call = Intake.__call__

    async def from_here(app: Intake, scope: dict[str, object], *rest: object) -> None:
        await call(app, {**scope, "client": ("127.0.0.1", 1)}, *rest)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Intake, "__call__", from_here)
    return start


def numbers(answer: Answer) -> Numbers:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert all(each.documentation for each in families)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(found: Numbers, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


@pytest.mark.long
def test_metrics_match_the_store(local: Callable[..., Service]) -> None:
    service = local()
    store = service.store
    published, failed, waiting = (service.publish(login="alice") for _ in range(3))
    store.leases.published(service.claim(published), cloud_id="c", location=None)
    store.leases.failed(service.claim(failed), error="no", reason=Reason.QUOTA)
    put_back(store, waiting, accepted=30)
    store.fleet.join(Member("here-1", "here", 1, "publisher@here", "0.1.0", 4))
    store.fleet.join(Member("here-2", "here", 2, "publisher@here", "0.1.0", 4))
    store.fleet.ask_to_drain("here-2")
    with writing(store.engine) as connection:
        seen = {"ticket_uid": "u", "cloud_id": "c", "first": db_now(), "last": db_now()}
        connection.execute(insert(sightings).values(seen))
        row = {"uid": "n", "ticket_id": published.id, "owner": "alice", "url": "http://x", "event": "e", "body": "b"}
        more = {"state": "waiting", "attempt": 0, "next_at": 0.0, "created": db_now() - 50}
        connection.execute(insert(notifications).values(row | more))

    found = numbers(service.get("/metrics", login=None))
    by_state = {state: value(found, "publisher_tickets", state=state, platform="openstack") for state in State}
    assert by_state == {state: float(store.publications.counts()[state]) for state in State}
    assert value(found, "publisher_queue_depth") == 1
    assert value(found, "publisher_queue_oldest_seconds") == pytest.approx(30, abs=5)
    for window in ("1h", "24h"):
        failures = {
            reason: value(found, "publisher_recent_failures", reason=reason, window=window) for reason in Reason
        }
        assert failures == {reason: float(reason is Reason.QUOTA) for reason in Reason}
        of = {"platform": "openstack", "window": window}
        assert value(found, "publisher_recent_published_images", **of) == 1
        assert value(found, "publisher_recent_published_bytes", **of) == published.progress.total
    states = {state: value(found, "publisher_workers", state=state) for state in ("alive", "draining", "silent")}
    assert states == {"alive": 1, "draining": 1, "silent": 0}
    assert value(found, "publisher_worker_slots") == 4
    assert value(found, "publisher_orphans") == 1
    assert value(found, "publisher_notifications", state="waiting") == 1
    assert value(found, "publisher_notification_oldest_seconds") == pytest.approx(50, abs=5)
    assert value(found, "publisher_store_up") == 1


@pytest.mark.long
def test_requests_are_counted_by_their_routes(local: Callable[..., Service]) -> None:
    service = local()
    before = numbers(service.get("/metrics", login=None))
    ticket = service.publish(login="alice")
    for path in (ticket_path(ticket), f"/api//{ticket_path(ticket)}"):
        assert service.get(f"{path}/status", login="alice", accept=JSON).status == 200
    service.get(f"{ticket_path(ticket)}/status?wait=0", login="alice", accept=JSON)
    service.get("nothing/at/all", login="alice")
    service.call("BREW", "status")
    found = numbers(service.get("/metrics", login=None))

    def more(name: str, **labels: str) -> float:
        return (value(found, name, **labels) or 0) - (value(before, name, **labels) or 0)

    status = "/api/users/{uid}/appliances/{aid}/images/{itid}/pimages/{pitid}/status"
    requests = "publisher_http_requests_total"
    assert more(requests, method="GET", route=status, status="200") == 3
    assert more("publisher_http_request_duration_seconds_count", method="GET", route=status) == 2, "not who waits"
    assert more(requests, method="GET", route="none", status="404") == 1
    assert more(requests, method="other", route="/api/status", status="405") == 1
    routes = {dict(labels)["route"] for name, labels in found if name == requests}
    assert not [each for each in routes if any(character.isdigit() for character in each)], "no id is a label"
    text = service.get("/metrics", login=None).body.decode()
    assert "alice" not in text
    assert ticket.uid not in text


@pytest.mark.long
def test_unavailable_store_is_reported_without_old_numbers(
    local: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = local()
    monkeypatch.setattr("publisher.telemetry.store_metrics._FRESH_SECONDS", 0.0)
    monkeypatch.setattr("publisher.telemetry.store_metrics._FRESH_TIMES", 0)

    def away(*_: object) -> None:
        raise OperationalError("", {}, Exception())

    assert value(numbers(service.get("/metrics", login=None)), "publisher_queue_depth") == 0
    monkeypatch.setattr(service.store.statistics, "queue", away)
    found = numbers(service.get("/metrics", login=None))
    assert value(found, "publisher_store_up") == 0
    assert value(found, "publisher_queue_depth") is None


@pytest.mark.long
def test_store_metrics_are_cached(local: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    service = local()
    monkeypatch.setattr("publisher.telemetry.store_metrics._FRESH_SECONDS", 60.0)
    depths = []
    for _ in range(2):
        service.publish(login="alice")
        depths.append(value(numbers(service.get("/metrics", login=None)), "publisher_queue_depth"))
    assert depths == [1, 1]


# Access ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 200),
        ({"X-Forwarded-For": "10.0.0.1"}, 403),
        ({"Forwarded": "for=10.0.0.1"}, 403),
        ({"Via": "1.1 proxy"}, 403),
    ],
)
def test_without_a_token_only_direct_local_requests_get_metrics(
    local: Callable[..., Service], fresh: Service, header: dict[str, str], status: int
) -> None:
    answer = local().get("/metrics", login=None, headers=header)
    assert answer.status == status


def test_production_mode_refuses_metrics_without_a_token(local: Callable[..., Service]) -> None:
    assert local(production=True).get("/metrics", login=None).status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        (socket.gethostname(), 200),
        ("metrics.example.com", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("", 403),
    ],
    ids=["localhost", "loopback", "ipv6", "machine", "setting", "foreign", "looks-like", "address", "none"],
)
def test_foreign_host_header_gets_no_metrics(local: Callable[..., Service], host: str, status: int) -> None:
    service = local(allowed_hosts="*.example.com, other")
    assert service.get("/metrics", login=None, headers={"Host": host}).status == status


def test_remote_caller_without_a_token_gets_no_metrics(fresh: Service) -> None:
    answer = fresh.get("/metrics", login=None)
    assert answer.status == 403
    assert b"PUBLISHER_METRICS_TOKEN_FILE" in answer.body


def test_metrics_token_grants_access_and_is_read_again(start: Callable[..., Service], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    service = start(metrics_token_file=file)
    assert service.get("/metrics", login=None, headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = service.get("/metrics", login=None, headers=given)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert TOKEN.encode() not in answer.body
    file.write_text("another")
    assert service.get("/metrics", login=None, headers={"Authorization": "Bearer another"}).status == 200
    file.unlink()
    assert service.get("/metrics", login=None, headers={"Authorization": "Bearer another"}).status == 503


@pytest.mark.parametrize(("address", "here"), [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.9", True),
                                               ("10.0.0.1", False), ("", False), ("localhost", False)])  # fmt: skip
def test_only_loopback_addresses_are_this_machine(address: str, here: bool) -> None:
    monitors = Monitors(None)
    if here:
        monitors.admit(address, None, by_proxy=False, own_host=True)
    else:
        with pytest.raises(Exception, match="on this machine only"):
            monitors.admit(address, None, by_proxy=False, own_host=True)


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_unreadable_token_file_is_a_configuration_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigurationError, match="PUBLISHER_METRICS_TOKEN_FILE"):
        Monitors.of(Settings(metrics_token_file=tmp_path / "token"))


# Health ---------------------------------------------------------------------------------------------------------


def test_healthz_is_alive_without_the_store(fresh: Service) -> None:
    fresh.store.engine.dispose()
    answer = fresh.get("/healthz", login=None)
    assert (answer.status, answer.json) == (200, {"alive": True})
    assert answer.headers["cache-control"] == "no-store"


def test_readyz_is_ready_without_a_broker_and_reports_it(fresh: Service) -> None:
    answer = fresh.get("/readyz", login=None)
    assert answer.status == 200
    assert answer.json["ready"] is True
    assert answer.json["checks"]["store"] == {"ok": True, "needed": True}
    broker = answer.json["checks"]["broker"]
    assert (broker["ok"], broker["needed"]) == (False, False)
    assert "accepted tickets wait until it is back" in broker["detail"]


def test_readyz_is_not_ready_without_disk_space(start: Callable[..., Service]) -> None:
    answer = start(disk_free_bytes_min=1 << 62).get("/readyz", login=None)
    assert (answer.status, answer.json["ready"]) == (503, False)
    assert "no ticket can be accepted" in answer.json["checks"]["disk"]["detail"]


@pytest.mark.parametrize("wrong", ["away", "another version"])
def test_readyz_is_not_ready_without_its_store(fresh: Service, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def check(*_: object, **__: object) -> None:
        if wrong == "away":
            raise OperationalError("SELECT secret", {}, Exception("at postgresql://user:password@host"))
        raise ConfigurationError("the database's tables are of another version")

    monkeypatch.setattr(fresh.store, "check_schema", check)
    answer = fresh.get("/readyz", login=None)
    assert (answer.status, answer.json["ready"], answer.json["checks"]["store"]["ok"]) == (503, False, False)
    assert b"password" not in answer.body
