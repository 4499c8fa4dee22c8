"""The metrics of a worker. Labels are few and have few values: no ticket, no user."""

from __future__ import annotations

from publisher.telemetry.metrics import counter, histogram

_UPLOAD_BUCKETS = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0)

UPLOADED_BYTES = counter(
    "publisher_uploaded_bytes",
    "Bytes of images sent to clouds, including those of interrupted uploads.",
    ["platform"],
)
UPLOAD_SECONDS = histogram(
    "publisher_upload_duration_seconds",
    "Time until the cloud accepted the last byte of an upload (complete), or the upload was interrupted (broken_off).",
    ["platform", "outcome"],
    buckets=_UPLOAD_BUCKETS,
)
PUBLICATION_SECONDS = histogram(
    "publisher_publication_duration_seconds",
    "Time from accepting a ticket to publishing its image.",
    ["platform"],
    buckets=_UPLOAD_BUCKETS,
)
ATTEMPTS = counter(
    "publisher_attempts",
    "Attempts to publish a ticket, by the resulting state of the ticket, or `lost`.",
    ["platform", "outcome"],
)
WITHDRAWALS = counter(
    "publisher_withdrawals",
    "Attempts to withdraw an image, by the resulting state of the ticket (`published`: the cloud refused), or `lost`.",
    ["platform", "outcome"],
)
RETIREMENTS = counter(
    "publisher_retirements",
    "Attempts to hide or rename an image that a newer one of its lineage replaces: `published`, or `lost`.",
    ["platform", "outcome"],
)
RETRIES = counter("publisher_retries", "Attempts that will be retried, by reason.", ["platform", "reason"])
FAILURES = counter("publisher_failures", "Failed tickets, by reason.", ["platform", "reason"])
LEASES_LOST = counter(
    "publisher_leases_lost",
    "Leases that expired during an attempt, counted by the worker that lost the lease (holder) or by the one that took"
    " the ticket over (successor).",
    ["seen_by"],
)
STORE_ERRORS = counter("publisher_store_errors", "Times that the ticket store failed to answer a worker.")
SWEEP_FINDINGS = counter("publisher_sweep_findings", "Findings of sweeps, by outcome.", ["outcome"])
