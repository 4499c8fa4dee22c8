"""For monitoring systems: /metrics, /healthz and /readyz, without a login and outside the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from publisher.services.health import Readiness, broker_check, disk_check, store_check
from publisher.telemetry.metrics import CONTENT_TYPE, exposition
from publisher.telemetry.metrics_access import Monitors
from publisher.telemetry.store_metrics import store_registry
from publisher.web import Router, Services, host_is_allowed

router = Router()

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""Headers by which a proxy is recognized. Not every proxy sends one."""
_HEADERS = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class MonitoringState:
    """The objects that these routes need. The app's state holds them."""

    registry: CollectorRegistry
    monitors: Monitors
    readiness: Readiness
    behind_proxy: bool
    """Behind a proxy all callers seem to be on this machine. Production mode assumes a proxy."""

    @classmethod
    def of(cls, services: Services) -> MonitoringState:
        """Return the state for the app's settings. Raises `ConfigurationError`."""
        store, settings = services.store, services.settings
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
    """Answer that the process is alive, whatever else may be wrong."""
    return JSONResponse({"alive": True}, headers=_HEADERS)


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """Answer 200 if this process can serve requests, else 503, with the result of each check."""
    ready, report = _monitoring(request).readiness.report()
    return JSONResponse(report, 200 if ready else 503, headers=_HEADERS)
