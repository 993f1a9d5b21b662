"""The idempotency key of a call: in the request's field, in the header `Idempotency-Key`, or in both."""

from __future__ import annotations

import re
from typing import Final

from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.transport.context import Context, all_metadata_of
from cloutagent_server.transport.execution_codec import RunRequest

HEADER: Final = "Idempotency-Key"
_METADATA: Final = "idempotency-key"
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


def idempotency_key(request: RunRequest, context: Context) -> str | None:
    """The key of a call that starts an execution; None without one.

    Raises:
        InvalidRequest: The header is malformed, is there more than once with different values, or differs from the
            request's field.
    """
    given = set(all_metadata_of(context, _METADATA))
    if request.HasField("idempotency_key"):
        given.add(request.idempotency_key)
        if len(given) > 1:
            raise InvalidRequest.of(HEADER, "differs from idempotencyKey")
        return request.idempotency_key
    if not given:
        return None
    key = given.pop()
    if given or _KEY.fullmatch(key) is None:
        raise InvalidRequest.of(HEADER, "must be one value of 1 to 255 printable ASCII characters")
    return key
