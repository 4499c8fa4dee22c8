"""Settings, read once from the environment (`PUBLISHER_…`), checked and frozen."""

# ruff: noqa: RUF009  # `_setting` is `field`, which makes no default of its own

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from publisher.core.errors import ConfigurationError
from publisher.core.service_urls import (
    check_broker_url,
    check_ca_file,
    check_database_url,
    check_http_url,
    parse_delays,
    parse_networks,
)
from publisher.core.settings_reader import OneOf, Ordered, Reading, read, variable

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  # only compared with, never bound
"""Maps each address that means "listen everywhere" to the loopback address to connect to instead."""

_UNIX_SOCKET_PATH_MAX = 100
"""In bytes. The kernel's limit for the path of a socket is 107 (unix(7)); Redis and its clients use the full path."""
_DAY, _YEAR = 86400, 366 * 86400
_FILE_BYTES_MAX = (1 << 63) - 1
"""The largest offset in a file."""

Port = Annotated[int, Ge(1), Le(65535)]
PortOrZero = Annotated[int, Ge(0), Le(65535)]
Timeout = Annotated[float, Ge(0.001), Le(_DAY)]
TimeoutOrZero = Annotated[float, Ge(0), Le(_DAY)]
Period = Annotated[float, Ge(0.001), Le(_YEAR)]
PeriodOrZero = Annotated[float, Ge(0), Le(_YEAR)]
Count = Annotated[int, Ge(1), Le(1_000_000)]
CountOrZero = Annotated[int, Ge(0), Le(1_000_000)]
QueueLength = Annotated[int, Ge(0), Le(1_000_000_000)]
Threads = Annotated[int, Ge(1), Le(1000)]
Rate = Annotated[float, Ge(0), Le(1_000_000)]
RequestBytes = Annotated[int, Ge(1024), Le(1 << 30)]
"""A request body is kept in memory, so that more than 1 GiB would be a mistake."""
Bytes = Annotated[int, Ge(1), Le(_FILE_BYTES_MAX)]
BytesOrZero = Annotated[int, Ge(0), Le(_FILE_BYTES_MAX)]
LogLevel = Annotated[str, OneOf(("DEBUG", "INFO", "WARNING", "ERROR"))]
LogFormat = Annotated[str, OneOf(("json", "console"))]

_RULES = (
    # The thread that renews the lease looks every `progress_seconds` whether a renewal is due.
    Ordered(("lease_renew_seconds", "progress_seconds"), "lease_seconds"),
    Ordered(("retry_first_seconds",), "retry_longest_seconds", or_equal=True),
    Ordered(("session_idle_seconds",), "session_seconds", or_equal=True),
    # A call includes its connection: a longer time-out of the connection would never be reached.
    Ordered(("connect_timeout_seconds",), "call_timeout_seconds", or_equal=True),
)
"""Pairs that contradict each other. Pairs of which one value merely has no effect are accepted."""

T = TypeVar("T")


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "image-publisher"


def _setting(default: T, help: str) -> T:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with its default. The environment variable of `image_root` is `PUBLISHER_IMAGE_ROOT`.

    Durations are in seconds, sizes in bytes. An empty string is the same as an unset variable. Any value can instead be
    the first line of a file; the variable's name with `_FILE` appended then names that file.
    """

    data_dir: Path = field(
        default_factory=_default_data_dir,
        metadata={"help": "Where the embedded database, broker, key and image root live."},
    )
    database_url: Annotated[str, check_database_url] = _setting(
        "",
        "SQLAlchemy URL; empty: SQLite in the data directory.",
    )
    broker_url: Annotated[str, check_broker_url] = _setting(
        "",
        "redis://, rediss:// or amqp:// URL; empty: the embedded Redis.",
    )
    broker_ca_file: Annotated[Path | None, check_ca_file] = _setting(
        None,
        "Certificates (PEM) of the authority that vouches for a broker reached by rediss:// or amqps://; empty: "
        "the authorities that the system trusts.",
    )
    broker_tls_verify: bool = _setting(
        True,
        "Check the certificate and the host name of a broker reached by rediss:// or amqps://. Turn this off for a "
        "trial only.",
    )
    image_root: Path | None = _setting(
        None,
        "Directory of the generated images; empty: `images` in the data directory.",
    )
    secret_key_file: Path | None = _setting(
        None,
        "Fernet keys, one a line, the first encrypts; empty: `secret.key` in the data directory.",
    )
    disk_free_bytes_min: BytesOrZero = _setting(
        64 << 20,
        "Free space below which `/readyz` and `publisher doctor` report the disk of the SQLite database or of the "
        "images as full, and no image is taken in.",
    )
    production: bool = _setting(
        False,
        "Production mode: warns about what is only fit for a trial, and connects to no loopback, link-local, "
        "metadata or reserved address that a caller names.",
    )
    log_level: LogLevel = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = _setting(
        "",
        "`json`, one object a line, or `console`, for people; empty: `json` in production mode.",
    )

    access_log: bool = _setting(False, "Whether the intake logs each request; a proxy in front may do better.")
    intake_host: str = _setting("127.0.0.1", "Address that the intake listens on.")
    intake_port: Port = _setting(8000, "Port that the intake listens on.")
    public_url: Annotated[str, check_http_url] = _setting(
        "",
        "URL of the intake as callers see it, for `Location`; empty: taken from the request.",
    )
    allowed_hosts: str = _setting(
        "",
        "Host names that callers may use for the intake, separated by commas: `publish.example.com`, "
        "`*.example.com`; `*` allows any. Loopback, this machine's own name and addresses and the host of "
        "`PUBLISHER_PUBLIC_URL` are always allowed.",
    )
    flower_port: Port = _setting(5555, "Port of Flower in `publisher up`.")
    flower_url: Annotated[str, check_http_url] = _setting(
        "",
        "URL of Flower as browsers see it, for the console's link; a path in it is that below which Flower "
        "answers; empty: its port on this machine.",
    )
    flower_password_file: Path | None = _setting(
        None,
        "Flower's password; empty: `flower.password` in the data directory, made up at the start.",
    )
    request_bytes_max: RequestBytes = _setting(1 << 20, "Largest request body.")
    keep_alive_seconds: TimeoutOrZero = _setting(5.0, "A connection without a request is closed after this long.")
    request_head_seconds: TimeoutOrZero = _setting(
        20.0,
        "Time to send the headers of a request, from connecting or from their first byte; then the connection is "
        "closed (408); 0: no limit.",
    )
    request_body_seconds: TimeoutOrZero = _setting(
        20.0,
        "A request body that is too slow for this long is broken off (408); for images it is "
        "PUBLISHER_STALL_SECONDS; 0: no limit.",
    )
    request_bytes_per_second_min: CountOrZero = _setting(
        500,
        "A request body that comes at fewer bytes a second is too slow.",
    )
    credential_cache_seconds: TimeoutOrZero = _setting(60.0, "How long a verified password is not hashed again.")
    sign_in_failures_max: CountOrZero = _setting(
        10,
        "After so many failed sign-ins of a login from one address in a minute no other is looked at (429); 0: no "
        "limit.",
    )
    address_sign_in_failures_max: CountOrZero = _setting(100, "Likewise of all logins from one address; 0: no limit.")
    user_requests_per_second: Rate = _setting(
        0.0,
        "Requests of one user, on the average of ten seconds and for each intake process; more are refused (429); "
        "0: no limit.",
    )
    address_requests_per_second: Rate = _setting(
        0.0,
        "Likewise from one address, with or without a login; 0: no limit.",
    )
    session_seconds: Period = _setting(604800.0, "How long one stays signed in at the console, at most.")
    session_idle_seconds: Period = _setting(
        28800.0,
        "Who asks the console for nothing for so long is signed out; pages that are only open do not count.",
    )
    console_streams_max: CountOrZero = _setting(
        200,
        "Pages of the console that one intake process keeps up to date at a time.",
    )
    idempotency_seconds: Period = _setting(86400.0, "How long an `Idempotency-Key` holds after its first request.")
    location_hosts: str = _setting(
        "",
        "Hosts that images may be fetched from, with commas between: `images.example.com`, `*.example.com`, "
        "`10.0.0.7:8080`; and buckets, which `*` is not: `s3://bucket`, `s3://images-*`; empty: from none.",
    )
    outbound_allow: Annotated[str, parse_networks] = _setting(
        "",
        "Networks (CIDR, with commas between) that callers may have connected to although production mode would not.",
    )
    outbound_deny: Annotated[str, parse_networks] = _setting(
        "",
        "Networks that are never connected to for a caller, in any mode, whatever else allows them.",
    )
    upload_bytes_max: Bytes = _setting(1 << 40, "Largest image that may be sent or fetched, as it comes and unpacked.")
    unpack_ratio_max: CountOrZero = _setting(
        200,
        "Bytes to which each byte of a compressed image may unpack, a zero counting as a thirty-second of one; 0: "
        "any number.",
    )
    virtual_size_max: Bytes = _setting(64 << 40, "Largest disk that an image may hold, unpacked: 8 EiB - 1 at most.")
    metrics_token_file: Path | None = _setting(
        None,
        "Whoever has the token in this file may read the metrics; empty: those on the same machine.",
    )
    send_timeout_seconds: Timeout = _setting(
        1.0,
        "How long the intake tries to wake a worker before it leaves that for later.",
    )

    worker_metrics_port: PortOrZero = _setting(
        0,
        "Port of a worker's metrics and health, another for each worker of a machine; 0: none.",
    )
    worker_metrics_host: str = _setting("127.0.0.1", "Address that a worker's metrics and health are told on.")
    worker_concurrency: Threads = _setting(4, "Publications that one worker runs at a time.")
    # Less than `worker_concurrency`: even with a single worker, one account leaves a thread free for others.
    account_uploads_max: CountOrZero = _setting(
        3,
        "Publications to one cloud account at a time, by all workers together; 0: no limit.",
    )
    user_uploads_max: CountOrZero = _setting(
        0,
        "Publications of one user at a time, by all workers together; 0: no limit.",
    )
    queue_max: QueueLength = _setting(100000, "With so many tickets waiting no other is accepted (429); 0: no limit.")
    user_queue_max: QueueLength = _setting(
        10000,
        "With so many of its tickets waiting no other of a user is accepted (429); 0: no limit.",
    )
    drain_seconds: TimeoutOrZero = _setting(
        30.0,
        "How long a worker that is asked to stop goes on with its uploads before it hands them back.",
    )
    heartbeat_seconds: Timeout = _setting(
        5.0,
        "How often a worker says that it lives; after four times that without a word it counts as dead.",
    )
    lease_seconds: Timeout = _setting(
        45.0,
        "A worker that has not renewed its lease for this long has lost the ticket.",
    )
    lease_renew_seconds: Timeout = _setting(10.0, "How often a lease is renewed.")
    progress_seconds: Timeout = _setting(0.5, "Progress is written, and a cancel noticed, at most this often.")
    reconcile_seconds: Timeout = _setting(2.0, "How often forgotten tickets are looked for and woken.")
    wake_again_seconds: Timeout = _setting(
        5.0,
        "A queued ticket is woken again after this long, then ever more rarely.",
    )
    attempts_max: Count = _setting(6, "Attempts before a transient error fails the ticket.")
    clean_up_attempts: CountOrZero = _setting(
        300,
        "Further attempts to remove what a failed ticket left, before that is left to the sweeper.",
    )
    retry_first_seconds: TimeoutOrZero = _setting(2.0, "Delay before the second attempt; it doubles.")
    retry_longest_seconds: PeriodOrZero = _setting(300.0, "Longest delay between two attempts.")
    deadline_seconds: PeriodOrZero = _setting(
        86400.0,
        "A ticket that is not published this long after it was accepted fails; 0: no such limit.",
    )
    sweep_seconds: PeriodOrZero = _setting(
        3600.0,
        "How often the clouds are searched for what nobody needs; 0: only by `publisher sweep`.",
    )
    sweep_grace_seconds: PeriodOrZero = _setting(
        3600.0,
        "What nobody needs is removed if it is seen again at least this much later.",
    )
    notify_retry_seconds: Annotated[str, parse_delays] = _setting(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        "Delays (commas between) before a webhook that failed is tried again; after the last, no more.",
    )
    notify_timeout_seconds: Timeout = _setting(15.0, "Time-out of one try to send a webhook.")
    connect_timeout_seconds: Timeout = _setting(10.0, "Time-out of a connection to a cloud.")
    call_timeout_seconds: Timeout = _setting(60.0, "Time-out of one call to a cloud.")
    stall_seconds: Timeout = _setting(120.0, "An upload that moves no byte for this long is broken off and retried.")
    verify_seconds: Timeout = _setting(900.0, "How long a cloud may take over an image after its last byte was sent.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings. Raises `ConfigurationError` with one line for each invalid value."""
        reading = cls.examine(environment)
        if reading.problems:
            raise ConfigurationError("\n".join(each.message for each in reading.problems))
        return reading.settings

    @classmethod
    def examine(cls, environment: Mapping[str, str] | None = None) -> Reading[Settings]:
        """Read the settings, with the default in place of each invalid value, and list what is wrong."""
        return read(cls, os.environ if environment is None else environment, _RULES)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that give another process these same settings."""
        return {
            variable(s.name): str(getattr(self, s.name))
            for s in fields(self)
            if getattr(self, s.name) not in (None, "")
        }

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'publisher.db'}"

    @property
    def broker(self) -> str:
        return self.broker_url or f"redis+socket://{self.embedded_redis_socket}"

    @property
    def embedded_redis_socket(self) -> Path:
        """The socket of the embedded Redis. The path depends only on the data directory, so that every process of the
        installation finds it."""
        socket = self.data_dir.absolute() / "redis.sock"
        if len(os.fsencode(socket)) <= _UNIX_SOCKET_PATH_MAX:
            return socket
        digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"image-publisher-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def silent_seconds(self) -> float:
        """A worker that has sent no heartbeat for this long counts as dead."""
        return 4 * self.heartbeat_seconds

    @property
    def intake(self) -> str:
        """URL of the intake for callers, without a trailing slash. The API is at `/api` below it."""
        if self.public_url:
            return self.public_url.rstrip("/").removesuffix("/api")
        host = EVERYWHERE.get(self.intake_host, self.intake_host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.intake_port}"

    @property
    def flower(self) -> str:
        """URL of Flower for operators, without a trailing slash."""
        return self.flower_url.rstrip("/") or f"http://127.0.0.1:{self.flower_port}"

    @property
    def flower_prefix(self) -> str:
        """The path prefix that Flower answers below, with a leading slash; empty if that is the root."""
        return urlsplit(self.flower_url).path.rstrip("/")

    @property
    def images(self) -> Path:
        return self.image_root or self.data_dir / "images"

    @property
    def key_file(self) -> Path:
        return self.secret_key_file or self.data_dir / "secret.key"
