"""The header `Idempotency-Key`: a request that is sent again with the key of before gets the ticket of before."""

from __future__ import annotations

import re

from publisher.core.errors import InvalidRequest
from publisher.intake.caller import Caller
from publisher.store.idempotency import IdempotencyKey

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")


def idempotency_key(caller: Caller, body: bytes) -> IdempotencyKey | None:
    """That of the request, if it has one. Raises `InvalidRequest`.

    A request is the same again where its method, its path and every byte of its body are. The query is left out: with
    an API key it has a signature.
    """
    given = caller.request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise InvalidRequest("is one key of 1 to 255 printable ASCII characters", field=HEADER)
    scope = caller.request.scope
    request = f"{scope['method']}\0{scope['path']}\0".encode() + body
    return IdempotencyKey(
        caller.user.login,
        given[0],
        # A plain hash of the body would let readers of the database try passwords at it.
        tuple(caller.services.sealer.fingerprints(request)),
        caller.services.settings.idempotency_seconds,
    )
