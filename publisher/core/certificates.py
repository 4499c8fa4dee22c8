"""Certificate bundles (PEM) that callers give: the authorities to check their clouds' certificates against."""

from __future__ import annotations

import ssl

from publisher.core.errors import InvalidRequest

BUNDLE_CHARACTERS_MAX = 64 * 1024


def check_bundle(bundle: str, field: str) -> None:
    """Check a bundle. Raises `InvalidRequest`. Bundles are stored in clear, so private keys are refused."""
    if len(bundle) > BUNDLE_CHARACTERS_MAX:
        raise InvalidRequest(f"is longer than {BUNDLE_CHARACTERS_MAX} characters", field=field)
    if "PRIVATE KEY" in bundle:
        raise InvalidRequest("holds a private key; give certificates only", field=field)
    unreadable = InvalidRequest("holds no certificates that can be read; give them as PEM text", field=field)
    if not bundle.isascii():
        raise unreadable
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bundle)
    except (ssl.SSLError, ValueError):
        raise unreadable from None
