"""For the machines that look after this one: /metrics, /healthz, /readyz. No login, and outside the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry

from publisher.core.settings import Settings
from publisher.services.health import Readiness, broker_check, disk_check, store_check
from publisher.store import Store
from publisher.telemetry.metrics import CONTENT_TYPE, exposition
from publisher.telemetry.metrics_access import Monitors
from publisher.telemetry.store_metrics import store_registry
from publisher.web.request import host_is_allowed

router = APIRouter()

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""By these a proxy is known; not every proxy sends one."""
_HEADERS = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class MonitoringState:
    """What these routes need; in the app's state."""

    registry: CollectorRegistry
    monitors: Monitors
    readiness: Readiness
    behind_proxy: bool
    """All callers come from this machine, as far as can be seen: so it is taken to be in production mode."""

    @classmethod
    def of(cls, store: Store, settings: Settings) -> MonitoringState:
        """Raises `ConfigurationError`."""
        checks = {
            "store": lambda: store_check(store),
            "broker": lambda: broker_check(settings),
            "disk": lambda: disk_check(settings),
        }
        return cls(
            store_registry(store, settings.silent_seconds),
            Monitors.of(settings),
            Readiness(checks),
            settings.production,
        )


def _monitoring(request: Request) -> MonitoringState:
    return cast(MonitoringState, request.app.state.monitoring)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    monitoring = _monitoring(request)
    address = request.client.host if request.client else ""
    by_proxy = monitoring.behind_proxy or any(name in request.headers for name in _FORWARDED)
    refusal = monitoring.monitors.refusal(
        address, request.headers.get("authorization"), by_proxy=by_proxy, own_host=host_is_allowed(request)
    )
    if refusal:
        return PlainTextResponse(f"{refusal.message}\n", refusal.status, refusal.headers)
    return Response(exposition(monitoring.registry), media_type=CONTENT_TYPE, headers=_HEADERS)


@router.get("/healthz")
async def healthz() -> Response:
    """That the process lives, and answers; whatever else may be wrong."""
    return JSONResponse({"alive": True}, headers=_HEADERS)


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """Whether requests are to be sent here."""
    ready, report = _monitoring(request).readiness.report()
    return JSONResponse(report, 200 if ready else 503, headers=_HEADERS)
