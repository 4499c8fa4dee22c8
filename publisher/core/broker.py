"""The message broker: its address, and how to connect to it, with TLS if its URL says so."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kombu.connection import Connection

from publisher.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Broker:
    """How to connect to the broker. `verify`: check its certificate and host name.

    `ca_file`: the authorities to check against; None: those that the system trusts.
    """

    url: str
    ca_file: Path | None = None
    verify: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Broker:
        """Return the broker of an installation."""
        return cls(settings.broker, settings.broker_ca_file, settings.broker_tls_verify)

    def connection(self, timeout_seconds: float, *, connect_seconds: float | None = None) -> Connection:
        """Return an unopened connection whose operations time out."""
        return Connection(
            self.url,
            connect_timeout=connect_seconds or timeout_seconds,
            transport_options=self._transport_options(timeout_seconds),
            ssl=self.tls or False,
        )

    @property
    def trust(self) -> str:
        """How the broker's certificate is checked, as text for people; empty for a URL without TLS."""
        if not self.uses_tls:
            return ""
        if not self.verify:
            return "its certificate is not checked"
        return f"its certificate is checked against {self.ca_file or 'the authorities that the system trusts'}"

    @property
    def uses_tls(self) -> bool:
        return urlsplit(self.url).scheme.lower() in ("rediss", "amqps")

    @property
    def tls(self) -> dict[str, Any] | None:
        """The `ssl` options of kombu's transport, which Celery calls `broker_use_ssl`; None for a URL without TLS.

        Kombu's own defaults are unsafe: no certificate check for Redis, no host name check for RabbitMQ (kombu 5.7).
        """
        if not self.uses_tls:
            return None
        required = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        ca_file = str(self.ca_file) if self.ca_file else None
        if urlsplit(self.url).scheme.lower() == "rediss":
            return {"ssl_cert_reqs": required, "ssl_ca_certs": ca_file, "ssl_check_hostname": self.verify}
        # Passing `server_hostname` turns on the check of the host name, whatever `cert_reqs` says.
        host = {"server_hostname": urlsplit(self.url).hostname or "localhost"} if self.verify else {}
        return {"cert_reqs": required, "ca_certs": ca_file, **host}

    def _transport_options(self, timeout_seconds: float) -> dict[str, Any]:
        if self.url.startswith(("amqp", "pyamqp")):
            return {"read_timeout": timeout_seconds, "write_timeout": timeout_seconds}
        return {
            "socket_connect_timeout": timeout_seconds,
            "socket_timeout": timeout_seconds,
            "retry_on_timeout": False,
            "max_retries": 0,
        }
