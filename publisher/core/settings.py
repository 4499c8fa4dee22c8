"""Settings, read once from the environment (`PUBLISHER_…`), checked and frozen."""

# ruff: noqa: RUF009  # `_setting` is `field`, which makes no default of its own

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from publisher.core.errors import ConfigurationError
from publisher.core.proxies import DirectHosts, check_proxy_url
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
THREADS_MAX = 1000
"""Maximum concurrency of one worker."""
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
Threads = Annotated[int, Ge(1), Le(THREADS_MAX)]
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
        metadata={"help": "Directory of the embedded database and broker, the secret key, and the images."},
    )
    database_url: Annotated[str, check_database_url] = _setting(
        "", "SQLAlchemy URL of the ticket store. Empty: SQLite in the data directory."
    )
    broker_url: Annotated[str, check_broker_url] = _setting(
        "", "URL of the broker: redis://, rediss:// or amqp://. Empty: the embedded Redis."
    )
    broker_ca_file: Annotated[Path | None, check_ca_file] = _setting(
        None,
        "PEM file with the authority's certificates for a broker at rediss:// or amqps://. Empty: the authorities"
        " that the system trusts.",
    )
    broker_tls_verify: bool = _setting(
        True,
        "Check the certificate and host name of a broker at rediss:// or amqps://. Turn this off only for a trial.",
    )
    image_root: Path | None = _setting(None, "Directory of the image files. Empty: `images` in the data directory.")
    secret_key_file: Path | None = _setting(
        None, "File with Fernet keys, one per line; the first one encrypts. Empty: `secret.key` in the data directory."
    )
    disk_free_bytes_min: BytesOrZero = _setting(
        64 << 20,
        "Minimum free disk space in bytes. Below it, `/readyz` and `publisher doctor` report the disk of the SQLite"
        " database or the images as full, and no image can be registered.",
    )
    production: bool = _setting(
        False,
        "Production mode: warn about settings that are only fit for a trial, and never connect to a loopback,"
        " link-local, metadata or reserved address for a caller.",
    )
    log_level: LogLevel = _setting("INFO", "Least severe level to log.")
    log_format: LogFormat = _setting(
        "",
        "Format of log lines: `json` for one object per line, `console` for people. Empty: `json` in production"
        " mode, otherwise `console`.",
    )

    access_log: bool = _setting(False, "Log each request to the intake. A proxy in front can often do this better.")
    intake_host: str = _setting("127.0.0.1", "Address that the intake listens on.")
    intake_port: Port = _setting(8000, "Port that the intake listens on.")
    public_url: Annotated[str, check_http_url] = _setting(
        "", "URL of the intake as callers see it, used in `Location`. Empty: taken from each request."
    )
    allowed_hosts: str = _setting(
        "",
        "Host names that callers may use for the intake, separated by commas: `publish.example.com`,"
        " `*.example.com`; `*` allows all. Loopback, this machine's name and addresses, and the host of"
        " `PUBLISHER_PUBLIC_URL` are always allowed.",
    )
    flower_port: Port = _setting(5555, "Port of Flower, as started by `publisher up` and `publisher flower`.")
    flower_url: Annotated[str, check_http_url] = _setting(
        "",
        "URL of Flower as browsers see it, for the console's link. Flower answers below its path. Empty: the port"
        " of Flower on this machine.",
    )
    flower_password_file: Path | None = _setting(
        None, "File with Flower's password. Empty: `flower.password` in the data directory, created at the first start."
    )
    request_bytes_max: RequestBytes = _setting(1 << 20, "Maximum size of a request body in bytes, images excepted.")
    keep_alive_seconds: TimeoutOrZero = _setting(
        5.0, "Time before an idle connection is closed, in seconds. 0: close it after each answer."
    )
    request_head_seconds: TimeoutOrZero = _setting(
        20.0, "Time limit for the headers of a request, in seconds. Then the connection is closed (408). 0: no limit."
    )
    request_body_seconds: TimeoutOrZero = _setting(
        20.0,
        "Time after which a request body that stays too slow is refused (408), in seconds."
        " `PUBLISHER_STALL_SECONDS` applies to images instead. 0: no limit.",
    )
    request_bytes_per_second_min: CountOrZero = _setting(
        500, "Minimum rate of a request body, in bytes per second. A slower body is too slow."
    )
    credential_cache_seconds: TimeoutOrZero = _setting(
        60.0,
        "Time for which a verified password need not be hashed again after its last use, in seconds. 0: hash it for"
        " each request.",
    )
    sign_in_failures_max: CountOrZero = _setting(
        10,
        "Maximum number of failed sign-ins per minute with one login from one address; further ones get 429. 0: no"
        " limit.",
    )
    address_sign_in_failures_max: CountOrZero = _setting(
        100,
        "Maximum number of failed sign-ins per minute from one address, with any login; further ones get 429. 0: no"
        " limit.",
    )
    user_requests_per_second: Rate = _setting(
        0.0,
        "Maximum request rate of one user on each intake process, averaged over ten seconds; further requests get"
        " 429. 0: no limit.",
    )
    address_requests_per_second: Rate = _setting(
        0.0,
        "Maximum request rate of one address on each intake process, averaged over ten seconds; further requests"
        " get 429. 0: no limit.",
    )
    session_seconds: Period = _setting(604800.0, "Maximum duration of a console session, in seconds.")
    session_idle_seconds: Period = _setting(
        28800.0, "Idle time before a console session ends, in seconds. Open live pages do not count."
    )
    console_streams_max: CountOrZero = _setting(200, "Maximum number of live console pages on each intake process.")
    idempotency_seconds: Period = _setting(
        86400.0, "Time for which an `Idempotency-Key` is remembered after its first request, in seconds."
    )
    location_hosts: str = _setting(
        "",
        "Hosts and buckets that images may be fetched from, separated by commas: `images.example.com`,"
        " `*.example.com`, `10.0.0.7:8080`, `s3://bucket`, `s3://images-*`. `*` allows all hosts, but no bucket."
        " Empty: none.",
    )
    outbound_allow: Annotated[str, parse_networks] = _setting(
        "",
        "Networks (CIDR, separated by commas) that callers may have connected to even if production mode forbids it.",
    )
    outbound_deny: Annotated[str, parse_networks] = _setting(
        "",
        "Networks (CIDR, separated by commas) that are never connected to for a caller, in any mode. This takes"
        " precedence.",
    )
    http_proxy: Annotated[str, check_proxy_url] = _setting(
        "",
        "URL of the proxy that workers reach clouds, image locations and webhooks through:"
        " `http://LOGIN:PASSWORD@proxy.example.com:3128`. It must allow CONNECT. Empty: they are reached directly.",
    )
    no_proxy: Annotated[str, DirectHosts.parse] = _setting(
        "",
        "Hosts, domains and networks (CIDR) that are reached without the proxy, separated by commas:"
        " `cloud.example.com`, `.lab.example.com`, `10.0.0.0/8`. `*` stands for all.",
    )
    upload_bytes_max: Bytes = _setting(
        1 << 40, "Maximum size in bytes of an image that is uploaded or fetched, both compressed and unpacked."
    )
    unpack_ratio_max: CountOrZero = _setting(
        200,
        "Maximum ratio of an image's unpacked size to its compressed size. Zero bytes count as a thirty-second"
        " each. 0: no limit.",
    )
    virtual_size_max: Bytes = _setting(64 << 40, "Maximum virtual size of an image's disk, in bytes.")
    metrics_token_file: Path | None = _setting(
        None,
        "File with the bearer token for reading the metrics. Empty: only this machine may read them, and not"
        " through a proxy.",
    )
    send_timeout_seconds: Timeout = _setting(
        1.0, "Time limit for the intake to wake a worker, in seconds. If it fails, the ticket is woken later."
    )

    worker_metrics_port: PortOrZero = _setting(
        0, "Port of a worker's metrics and health checks; each worker on a machine needs its own. 0: none."
    )
    worker_metrics_host: str = _setting("127.0.0.1", "Address that a worker's metrics and health checks listen on.")
    worker_concurrency: Threads = _setting(4, "Number of tickets that one worker publishes at a time.")
    scratch_dir: Path | None = _setting(
        None,
        "Directory where workers convert images for clouds that need another format. Empty: `scratch` in the data"
        " directory.",
    )
    scratch_bytes_max: Bytes = _setting(
        1 << 40,
        "Maximum size in bytes of all files in the scratch directory together. `PUBLISHER_DISK_FREE_BYTES_MIN` also"
        " applies.",
    )
    # Less than `worker_concurrency`: even with a single worker, one account leaves a thread free for others.
    account_uploads_max: CountOrZero = _setting(
        3, "Maximum number of simultaneous uploads to one cloud account, across all workers. 0: no limit."
    )
    user_uploads_max: CountOrZero = _setting(
        0, "Maximum number of simultaneous uploads of one user, across all workers. 0: no limit."
    )
    queue_max: QueueLength = _setting(
        100000, "Maximum number of queued tickets; further publish requests get 429. 0: no limit."
    )
    user_queue_max: QueueLength = _setting(
        10000, "Maximum number of queued tickets of one user; the user's further publish requests get 429. 0: no limit."
    )
    drain_seconds: TimeoutOrZero = _setting(
        30.0,
        "Time for which a worker that is stopped continues its uploads before it returns them to the queue, in"
        " seconds.",
    )
    heartbeat_seconds: Timeout = _setting(
        5.0,
        "Interval between two heartbeats of a worker, in seconds. A worker counts as dead after four intervals"
        " without one.",
    )
    lease_seconds: Timeout = _setting(
        45.0, "Duration of a lease, in seconds. A worker that does not renew it in time loses the ticket."
    )
    lease_renew_seconds: Timeout = _setting(10.0, "Interval between two renewals of a lease, in seconds.")
    progress_seconds: Timeout = _setting(
        0.5,
        "Minimum interval between two updates of a ticket's progress, in seconds. A cancel is noticed at the same"
        " interval.",
    )
    reconcile_seconds: Timeout = _setting(2.0, "Interval at which overdue tickets are found and woken, in seconds.")
    wake_again_seconds: Timeout = _setting(
        5.0, "Time before a queued ticket is woken again, in seconds. Later wakes are further apart."
    )
    attempts_max: Count = _setting(6, "Maximum number of attempts; then a transient error fails the ticket.")
    clean_up_attempts: CountOrZero = _setting(
        300, "Number of further attempts to delete what a failed ticket created; then this is left to the sweeper."
    )
    retry_first_seconds: TimeoutOrZero = _setting(
        2.0, "Delay before the second attempt, in seconds. It doubles with each further attempt."
    )
    retry_longest_seconds: PeriodOrZero = _setting(300.0, "Maximum delay between two attempts, in seconds.")
    deadline_seconds: PeriodOrZero = _setting(
        86400.0, "Time limit for a ticket from acceptance to publication, in seconds; then it fails. 0: no limit."
    )
    expiry_notice_seconds: PeriodOrZero = _setting(
        86400.0, "Time before an image expires at which its webhooks are notified, in seconds."
    )
    sweep_seconds: PeriodOrZero = _setting(
        3600.0, "Interval between two sweeps for orphans, in seconds. 0: sweep only with `publisher sweep`."
    )
    sweep_grace_seconds: PeriodOrZero = _setting(
        3600.0, "Minimum time between the first sighting of an orphan and its deletion, in seconds."
    )
    notify_retry_seconds: Annotated[str, parse_delays] = _setting(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        "Delays before a failed webhook is sent again, in seconds, separated by commas. After the last one, it is"
        " given up.",
    )
    notify_timeout_seconds: Timeout = _setting(15.0, "Time limit for one attempt to send a webhook, in seconds.")
    connect_timeout_seconds: Timeout = _setting(10.0, "Time limit for connecting to a cloud, in seconds.")
    call_timeout_seconds: Timeout = _setting(60.0, "Time limit for one call to a cloud, in seconds.")
    stall_seconds: Timeout = _setting(
        120.0,
        "Time without a transferred byte after which an image's transfer is aborted, in seconds. Uploads to clouds"
        " are then retried.",
    )
    verify_seconds: Timeout = _setting(
        900.0, "Time limit for a cloud to process an image after its last byte, in seconds."
    )

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
        import hashlib  # needed by few processes, and slow to import
        import tempfile

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
    def scratch(self) -> Path:
        return self.scratch_dir or self.data_dir / "scratch"

    @property
    def key_file(self) -> Path:
        return self.secret_key_file or self.data_dir / "secret.key"
