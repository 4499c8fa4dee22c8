"""The metrics of a worker. Labels are few and have few values: no ticket, no user."""

from __future__ import annotations

from publisher.telemetry.metrics import counter, histogram

_UPLOAD_BUCKETS = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0)

UPLOADED_BYTES = counter(
    "publisher_uploaded_bytes",
    "Bytes of images that were sent to clouds, those of broken uploads included.",
    ["platform"],
)
UPLOAD_SECONDS = histogram(
    "publisher_upload_duration_seconds",
    "Time that uploads took, until the cloud had taken the last byte (complete), or they ended otherwise (broken_off).",
    ["platform", "outcome"],
    buckets=_UPLOAD_BUCKETS,
)
PUBLICATION_SECONDS = histogram(
    "publisher_publication_duration_seconds",
    "Time from the acceptance of a ticket until its image was published.",
    ["platform"],
    buckets=_UPLOAD_BUCKETS,
)
ATTEMPTS = counter(
    "publisher_attempts",
    "Attempts at tickets, by the state that each left its ticket in, or `lost`.",
    ["platform", "outcome"],
)
RETRIES = counter("publisher_retries", "Attempts that are to be repeated, by reason.", ["platform", "reason"])
FAILURES = counter("publisher_failures", "Tickets that failed, by reason.", ["platform", "reason"])
LEASES_LOST = counter(
    "publisher_leases_lost",
    "Leases that ran out while a ticket was worked on, as seen by the worker that lost it (holder), or took it over"
    " (successor).",
    ["seen_by"],
)
STORE_ERRORS = counter("publisher_store_errors", "Times that the store did not answer a worker.")
SWEEP_FINDINGS = counter("publisher_sweep_findings", "What sweeps found in clouds, by what became of it.", ["outcome"])
