"""Explain in words why a TLS connection failed."""

from __future__ import annotations

import ssl

_OTHER_NAME = {62, 63, 64}
"""X509_V_ERR_HOSTNAME_MISMATCH, and its counterparts for mail and IP addresses (openssl/x509_vfy.h)."""
_EXPIRED, _NOT_YET_VALID = 10, 9
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
"""OpenSSL's reasons for an answer that is not TLS, such as that of a server that speaks plain HTTP."""
_ADD = "add its CA to those that this worker trusts (REQUESTS_CA_BUNDLE)"
_GIVE = "give its CA certificate as caBundle, or add it to those that this worker trusts (REQUESTS_CA_BUNDLE)"


def fault(error: BaseException, where: str, element: str, *, bundle: bool = True) -> str | None:
    """Return a sentence about the TLS error in the connection to `where`; None if TLS did not fail.

    `element`: the request's field that holds the address. `bundle`: the account can have its own CA bundle.
    """
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _of_certificate(cause, where, element, _GIVE if bundle else _ADD)
    # A connection that was cut is not a TLS error.
    if cause is None or isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return None
    if cause.reason in _NO_TLS:
        return f"{where} does not use TLS; use http:// in {element}, or a port that uses TLS"
    return f"the TLS connection to {where} failed ({cause.reason or 'unknown reason'}); check {element}"


def _of_certificate(error: ssl.SSLCertVerificationError, where: str, element: str, advice: str) -> str:
    match error.verify_code:
        case code if code in _OTHER_NAME:
            return f"the TLS certificate of {where} is for another host name; use the certificate's name in {element}"
        case code if code == _EXPIRED:
            return f"the TLS certificate of {where} has expired; ask its operator to renew it"
        case code if code == _NOT_YET_VALID:
            return f"the TLS certificate of {where} is not valid yet; check the clocks of both machines"
    return f"the TLS certificate of {where} is not trusted ({error.verify_message}); {advice}"


def _cause(error: BaseException) -> ssl.SSLError | None:
    """Find the original TLS error. Clients wrap it in their own: as a cause, a context, a reason or an argument."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        # aiohttp's TLS errors derive from ssl.SSLError, too, but do not hold the reason.
        if isinstance(each, ssl.SSLError) and type(each).__module__ == "ssl":
            return each
        waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return None
