"""What the API and the console share: routes, requests, sign-in, rate limits, formats, images as bodies, errors.

The other packages import from here; only `auth` is imported as a module, for the rules it names.
"""

from __future__ import annotations

from publisher.web.auth import Authenticator, keep_signatures_out_of_logs, new_api_key
from publisher.web.body_limits import MAX_BODY_BYTES, MAX_DEPTH, MAX_ELEMENTS, check_size, too_deep, too_many
from publisher.web.conditional import Rendered, constant, respond
from publisher.web.error_handlers import Problem, status_of
from publisher.web.image_bodies import IMAGE_TYPE, bad_key, is_image, no_image, received, send_image
from publisher.web.negotiation import Format, NotAcceptable, UnsupportedMediaType, answer_format
from publisher.web.rate_limits import Throttle
from publisher.web.request import (
    API,
    Body,
    Id,
    SecretKeeper,
    Services,
    actor,
    address,
    base_url,
    bounded_body,
    count_address,
    host_is_allowed,
    services,
    signed_in,
    signer,
    wake_later,
)
from publisher.web.routing import From, Route, Router
from publisher.web.threads import readers, writers

__all__ = [
    "API",
    "IMAGE_TYPE",
    "MAX_BODY_BYTES",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "Authenticator",
    "Body",
    "Format",
    "From",
    "Id",
    "NotAcceptable",
    "Problem",
    "Rendered",
    "Route",
    "Router",
    "SecretKeeper",
    "Services",
    "Throttle",
    "UnsupportedMediaType",
    "actor",
    "address",
    "answer_format",
    "bad_key",
    "base_url",
    "bounded_body",
    "check_size",
    "constant",
    "count_address",
    "host_is_allowed",
    "is_image",
    "keep_signatures_out_of_logs",
    "new_api_key",
    "no_image",
    "readers",
    "received",
    "respond",
    "send_image",
    "services",
    "signed_in",
    "signer",
    "status_of",
    "too_deep",
    "too_many",
    "wake_later",
    "writers",
]
