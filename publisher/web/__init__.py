"""What the API and the console share: routes, requests, sign-in, rate limits, images as bodies, errors.

The other packages import from here; only `auth` is imported as a module, for the rules it names.
"""

from __future__ import annotations

from publisher.web.auth import Authenticator, keep_signatures_out_of_logs, new_api_key
from publisher.web.check_results import AnsweredLater, CheckResults
from publisher.web.conditional import (
    Rendered,
    caller_has,
    constant,
    etag_of,
    is_conditional,
    respond,
    stream,
    unchanged,
)
from publisher.web.error_handlers import Problem, Renderer, describe, status_of
from publisher.web.image_bodies import IMAGE_TYPE, bad_key, is_image, no_image, received, send_image
from publisher.web.preferences import APPLIED, PREFER, STRICT, wants_strict
from publisher.web.rate_limits import Throttle
from publisher.web.request import (
    API,
    HEAD_ONLY,
    PASSWORD_KNOWN,
    Body,
    Id,
    SecretKeeper,
    Services,
    actor,
    address,
    base_url,
    bounded_body,
    check_results,
    count_address,
    host_is_allowed,
    media_type,
    refuse_without_login,
    services,
    signed_in,
    signed_in_beside,
    signer,
    waits_for_hash,
    wake_later,
)
from publisher.web.routing import From, Route, Router, may_take_long
from publisher.web.threads import readers, writers

__all__ = [
    "API",
    "APPLIED",
    "HEAD_ONLY",
    "IMAGE_TYPE",
    "PASSWORD_KNOWN",
    "PREFER",
    "STRICT",
    "AnsweredLater",
    "Authenticator",
    "Body",
    "CheckResults",
    "From",
    "Id",
    "Problem",
    "Rendered",
    "Renderer",
    "Route",
    "Router",
    "SecretKeeper",
    "Services",
    "Throttle",
    "actor",
    "address",
    "bad_key",
    "base_url",
    "bounded_body",
    "caller_has",
    "check_results",
    "constant",
    "count_address",
    "describe",
    "etag_of",
    "host_is_allowed",
    "is_conditional",
    "is_image",
    "keep_signatures_out_of_logs",
    "may_take_long",
    "media_type",
    "new_api_key",
    "no_image",
    "readers",
    "received",
    "refuse_without_login",
    "respond",
    "send_image",
    "services",
    "signed_in",
    "signed_in_beside",
    "signer",
    "status_of",
    "stream",
    "unchanged",
    "waits_for_hash",
    "wake_later",
    "wants_strict",
    "writers",
]
