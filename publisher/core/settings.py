"""Settings, read once from the environment (`PUBLISHER_…`) and frozen."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_type_hints
from urllib.parse import urlsplit

from publisher.core.errors import ConfigurationError
from publisher.core.service_urls import check_broker_url, check_ca_file, check_database_url

PREFIX = "PUBLISHER_"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  # only compared with, never bound
"""Maps each address that means "listen everywhere" to the loopback address to connect to instead."""

FILE_SUFFIX = "_FILE"
"""`PUBLISHER_DATABASE_URL_FILE` names a file with the value of `PUBLISHER_DATABASE_URL`. Works for every setting."""
_UNIX_SOCKET_PATH_MAX = 100
"""In bytes. The kernel's limit for the path of a socket is 107 (unix(7)); Redis and its clients use the full path."""


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "image-publisher"


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
    database_url: str = field(default="", metadata={"help": "SQLAlchemy URL; empty: SQLite in the data directory."})
    broker_url: str = field(
        default="", metadata={"help": "redis://, rediss:// or amqp:// URL; empty: the embedded Redis."}
    )
    broker_ca_file: Path | None = field(
        default=None,
        metadata={
            "help": "Certificates (PEM) of the authority that vouches for a broker reached by rediss:// or amqps://;"
            " empty: the authorities that the system trusts."
        },
    )
    broker_tls_verify: bool = field(
        default=True,
        metadata={
            "help": "Check the certificate and the host name of a broker reached by rediss:// or amqps://. Turn this"
            " off for a trial only."
        },
    )
    image_root: Path | None = field(
        default=None,
        metadata={"help": "Directory of the generated images; empty: `images` in the data directory."},
    )
    secret_key_file: Path | None = field(
        default=None,
        metadata={"help": "Fernet keys, one a line, the first encrypts; empty: `secret.key` in the data directory."},
    )
    disk_free_bytes_min: int = field(
        default=64 << 20,
        metadata={
            "help": "Free space below which `/readyz` and `publisher doctor` report the disk of the SQLite database or"
            " of the images as full, and no image is taken in."
        },
    )
    production: bool = field(
        default=False,
        metadata={
            "help": "Production mode: warns about what is only fit for a trial, and connects to no loopback,"
            " link-local, metadata or reserved address that a caller names."
        },
    )
    log_level: str = field(default="INFO", metadata={"help": "DEBUG, INFO, WARNING or ERROR."})
    log_format: str = field(
        default="",
        metadata={"help": "`json`, one object a line, or `console`, for people; empty: `json` in production mode."},
    )

    access_log: bool = field(
        default=False,
        metadata={"help": "Whether the intake logs each request; a proxy in front may do better."},
    )
    intake_host: str = field(default="127.0.0.1", metadata={"help": "Address that the intake listens on."})
    intake_port: int = field(default=8000, metadata={"help": "Port that the intake listens on."})
    public_url: str = field(
        default="",
        metadata={"help": "URL of the intake as callers see it, for `Location`; empty: taken from the request."},
    )
    allowed_hosts: str = field(
        default="",
        metadata={
            "help": "Host names that callers may use for the intake, separated by commas: `publish.example.com`,"
            " `*.example.com`; `*` allows any. Loopback, this machine's own name and addresses and the host of"
            " `PUBLISHER_PUBLIC_URL` are always allowed."
        },
    )
    flower_port: int = field(default=5555, metadata={"help": "Port of Flower in `publisher up`."})
    flower_url: str = field(
        default="",
        metadata={
            "help": "URL of Flower as browsers see it, for the console's link; a path in it is that below which Flower"
            " answers; empty: its port on this machine."
        },
    )
    flower_password_file: Path | None = field(
        default=None,
        metadata={"help": "Flower's password; empty: `flower.password` in the data directory, made up at the start."},
    )
    request_bytes_max: int = field(default=1 << 20, metadata={"help": "Largest request body."})
    keep_alive_seconds: float = field(
        default=5.0, metadata={"help": "A connection without a request is closed after this long."}
    )
    request_head_seconds: float = field(
        default=20.0,
        metadata={
            "help": "Time to send the headers of a request, from connecting or from their first byte; then the"
            " connection is closed (408); 0: no limit."
        },
    )
    request_body_seconds: float = field(
        default=20.0,
        metadata={
            "help": "A request body that is too slow for this long is broken off (408); for images it is"
            " PUBLISHER_STALL_SECONDS; 0: no limit."
        },
    )
    request_bytes_per_second_min: int = field(
        default=500, metadata={"help": "A request body that comes at fewer bytes a second is too slow."}
    )
    credential_cache_seconds: float = field(
        default=60.0, metadata={"help": "How long a verified password is not hashed again."}
    )
    sign_in_failures_max: int = field(
        default=10,
        metadata={
            "help": "After so many failed sign-ins of a login from one address in a minute no other is looked at (429);"
            " 0: no limit."
        },
    )
    address_sign_in_failures_max: int = field(
        default=100,
        metadata={"help": "Likewise of all logins from one address; 0: no limit."},
    )
    user_requests_per_second: float = field(
        default=0.0,
        metadata={
            "help": "Requests of one user, on the average of ten seconds and for each intake process; more are refused"
            " (429); 0: no limit."
        },
    )
    address_requests_per_second: float = field(
        default=0.0, metadata={"help": "Likewise from one address, with or without a login; 0: no limit."}
    )
    session_seconds: float = field(
        default=604800.0, metadata={"help": "How long one stays signed in at the console, at most."}
    )
    session_idle_seconds: float = field(
        default=28800.0,
        metadata={
            "help": "Who asks the console for nothing for so long is signed out; pages that are only open do not count."
        },
    )
    console_streams_max: int = field(
        default=200,
        metadata={"help": "Pages of the console that one intake process keeps up to date at a time."},
    )
    idempotency_seconds: float = field(
        default=86400.0, metadata={"help": "How long an `Idempotency-Key` holds after its first request."}
    )
    location_hosts: str = field(
        default="",
        metadata={
            "help": "Hosts that images may be fetched from, with commas between: `images.example.com`, `*.example.com`,"
            " `10.0.0.7:8080`; and buckets, which `*` is not: `s3://bucket`, `s3://images-*`; empty: from none."
        },
    )
    outbound_allow: str = field(
        default="",
        metadata={
            "help": "Networks (CIDR, with commas between) that callers may have connected to although production mode"
            " would not."
        },
    )
    outbound_deny: str = field(
        default="",
        metadata={"help": "Networks that are never connected to for a caller, in any mode, whatever else allows them."},
    )
    upload_bytes_max: int = field(
        default=1 << 40,
        metadata={"help": "Largest image that may be sent or fetched, as it comes and unpacked."},
    )
    unpack_ratio_max: int = field(
        default=200,
        metadata={
            "help": "Bytes to which each byte of a compressed image may unpack, a zero counting as a thirty-second of"
            " one; 0: any number."
        },
    )
    virtual_size_max: int = field(
        default=64 << 40,
        metadata={"help": "Largest disk that an image may hold, unpacked: 8 EiB - 1 at most."},
    )
    metrics_token_file: Path | None = field(
        default=None,
        metadata={"help": "Whoever has the token in this file may read the metrics; empty: those on the same machine."},
    )
    send_timeout_seconds: float = field(
        default=1.0,
        metadata={"help": "How long the intake tries to wake a worker before it leaves that for later."},
    )

    worker_metrics_port: int = field(
        default=0,
        metadata={"help": "Port of a worker's metrics and health, another for each worker of a machine; 0: none."},
    )
    worker_metrics_host: str = field(
        default="127.0.0.1", metadata={"help": "Address that a worker's metrics and health are told on."}
    )
    worker_concurrency: int = field(default=4, metadata={"help": "Tickets that one worker publishes at a time."})
    # Less than `worker_concurrency`: even with a single worker, one account leaves a thread free for others.
    account_uploads_max: int = field(
        default=3,
        metadata={"help": "Publications to one cloud account at a time, by all workers together; 0: no limit."},
    )
    user_uploads_max: int = field(
        default=0,
        metadata={"help": "Publications of one user at a time, by all workers together; 0: no limit."},
    )
    queue_max: int = field(
        default=100000,
        metadata={"help": "With so many tickets waiting no other is accepted (429); 0: no limit."},
    )
    user_queue_max: int = field(
        default=10000,
        metadata={"help": "With so many of its tickets waiting no other of a user is accepted (429); 0: no limit."},
    )
    drain_seconds: float = field(
        default=30.0,
        metadata={
            "help": "How long a worker that is asked to stop goes on with its uploads before it hands them back."
        },
    )
    heartbeat_seconds: float = field(
        default=5.0,
        metadata={
            "help": "How often a worker says that it lives; after four times that without a word it counts as dead."
        },
    )
    lease_seconds: float = field(
        default=45.0,
        metadata={"help": "A worker that has not renewed its lease for this long has lost the ticket."},
    )
    lease_renew_seconds: float = field(default=10.0, metadata={"help": "How often a lease is renewed."})
    progress_seconds: float = field(
        default=0.5, metadata={"help": "Progress is written, and a cancel noticed, at most this often."}
    )
    reconcile_seconds: float = field(
        default=2.0, metadata={"help": "How often forgotten tickets are looked for and woken."}
    )
    wake_again_seconds: float = field(
        default=5.0,
        metadata={"help": "A queued ticket is woken again after this long, then ever more rarely."},
    )
    attempts_max: int = field(default=6, metadata={"help": "Attempts before a transient error fails the ticket."})
    clean_up_attempts: int = field(
        default=300,
        metadata={"help": "Further attempts to remove what a failed ticket left, before that is left to the sweeper."},
    )
    retry_first_seconds: float = field(default=2.0, metadata={"help": "Delay before the second attempt; it doubles."})
    retry_longest_seconds: float = field(default=300.0, metadata={"help": "Longest delay between two attempts."})
    deadline_seconds: float = field(
        default=86400.0,
        metadata={"help": "A ticket that is not published this long after it was accepted fails; 0: no such limit."},
    )
    sweep_seconds: float = field(
        default=3600.0,
        metadata={"help": "How often the clouds are searched for what nobody needs; 0: only by `publisher sweep`."},
    )
    sweep_grace_seconds: float = field(
        default=3600.0,
        metadata={"help": "What nobody needs is removed if it is seen again at least this much later."},
    )
    notify_retry_seconds: str = field(
        default="5,300,1800,7200,18000,36000,50400,72000,86400",
        metadata={
            "help": "Delays (commas between) before a webhook that failed is tried again; after the last, no more."
        },
    )
    notify_timeout_seconds: float = field(default=15.0, metadata={"help": "Time-out of one try to send a webhook."})
    connect_timeout_seconds: float = field(default=10.0, metadata={"help": "Time-out of a connection to a cloud."})
    call_timeout_seconds: float = field(default=60.0, metadata={"help": "Time-out of one call to a cloud."})
    stall_seconds: float = field(
        default=120.0,
        metadata={"help": "An upload that moves no byte for this long is broken off and retried."},
    )
    verify_seconds: float = field(
        default=900.0,
        metadata={"help": "How long a cloud may take over an image after its last byte was sent."},
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings. Raises `ConfigurationError`, with the variable's name, if a value is invalid."""
        environment = os.environ if environment is None else environment
        hints = get_type_hints(cls)
        values: dict[str, object] = {}
        for setting in fields(cls):
            name, text = _given(setting.name, environment)
            if text:
                values[setting.name] = _read(name, text, hints[setting.name])
                if check := _CHECKS.get(setting.name):
                    check(name, text)
        return cls(**values)  # type: ignore[arg-type]  # each value was read as its field's own type

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


_CHECKS: Mapping[str, Callable[[str, str], None]] = {
    "broker_url": check_broker_url,
    "broker_ca_file": check_ca_file,
    "database_url": check_database_url,
}
"""Maps settings to the function that rejects an invalid value. The first argument is the variable's name."""


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def _given(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that gives a setting, and its text; the text is empty if no variable does."""
    plain = variable(name)
    by_file = plain + FILE_SUFFIX
    file = environment.get(by_file, "")
    if not file:
        return plain, environment.get(plain, "")
    if environment.get(plain):
        raise ConfigurationError(f"{plain} and {by_file} are both set; keep one of them")
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{by_file}: {file} cannot be read: {_why(error)}") from None
    return by_file, lines[0].strip() if lines else ""


def _why(error: OSError | UnicodeDecodeError) -> str:
    # The decoding error quotes the undecodable bytes, which may be a password.
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8"


_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _read(name: str, text: str, kind: object) -> object:
    try:
        if kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError("use true or false")
            return text.lower() in _TRUE
        if kind is int:
            return int(text)
        if kind is float:
            if not math.isfinite(float(text)):
                raise ValueError("use a finite number")
            return float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return text if kind is str else Path(text)
