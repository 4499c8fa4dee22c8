"""Access to the metrics. They contain no secrets but are not public."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from publisher.core.errors import ConfigurationError, NotAllowed, NotAuthenticated
from publisher.core.settings import Settings


@dataclass(frozen=True, slots=True)
class MetricsRefusal:
    """The HTTP answer to a request that may not read the metrics."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Monitors:
    """Decides who may read the metrics: with a token file, callers that have the token; else only this machine."""

    token_file: Path | None

    @classmethod
    def of(cls, settings: Settings) -> Monitors:
        """Return the rules of an installation. Raises `ConfigurationError` if the token cannot be read."""
        made = cls(settings.metrics_token_file)
        if made.token_file:
            made._token(made.token_file)
        return made

    def admit(self, address: str, authorization: str | None, *, by_proxy: bool, own_host: bool) -> None:
        """Admit a request from `address`. `own_host`: whether its `Host` is one of ours.

        Raises `NotAuthenticated` or `NotAllowed`.
        """
        if self.token_file is None:
            if not own_host:
                raise NotAllowed("the metrics are not served under this host name; see PUBLISHER_ALLOWED_HOSTS")
            if by_proxy or not _is_loopback(address):
                raise NotAllowed(
                    "without a token, the metrics are served on this machine only, and not through a proxy, as in"
                    " production mode; see PUBLISHER_METRICS_TOKEN_FILE"
                )
            return
        scheme, _, token = (authorization or "").partition(" ")
        # Read each time, so that it can be changed without a restart.
        wanted = self._token(self.token_file)
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), wanted.encode()):
            raise NotAuthenticated("the metrics need a bearer token")

    def refusal(
        self, address: str, authorization: str | None, *, by_proxy: bool, own_host: bool
    ) -> MetricsRefusal | None:
        """Return the answer to a request that `admit` refuses; None if it admits the request."""
        try:
            self.admit(address, authorization, by_proxy=by_proxy, own_host=own_host)
        except NotAuthenticated as error:
            return MetricsRefusal(401, str(error), {"WWW-Authenticate": "Bearer"})
        except NotAllowed as error:
            return MetricsRefusal(403, str(error))
        except ConfigurationError:
            return MetricsRefusal(503, "the token file of the metrics cannot be read")
        return None

    def _token(self, file: Path) -> str:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            words = getattr(error, "strerror", None) or "it is not a text file"
            raise ConfigurationError(f"PUBLISHER_METRICS_TOKEN_FILE: {file} cannot be read: {words}") from None
        if not token:
            raise ConfigurationError(f"PUBLISHER_METRICS_TOKEN_FILE: {file} is empty")
        return token


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
