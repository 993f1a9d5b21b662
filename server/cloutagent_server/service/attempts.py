"""Attempts with keys that are not valid, counted by the address that they come from."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from cloutagent_server.domain.errors import ApiKeyInvalid, AuthenticationRateLimited

DEFAULT_FAILURES_PER_MINUTE: Final = 20
SOURCES: Final = 10_000
# Seconds; more than the clock's sums are off by.
_ROUNDING: Final = 1e-6


class FailedAttempts:
    """A token bucket for each source: `per_minute` failures at once, and as many again spread over a minute.

    A valid key is never counted, and passes from a source whose bucket is empty too: many callers may share an address,
    so that whoever has no key could lock out all others, and nothing is protected by it, for a look-up costs next to
    nothing and a key of 122 random bits is not found by trying. An admin key that is short may be, so it passes only
    while `refusal` gives none: a guess beyond the limit tells nothing, right or wrong.

    Memory is bounded: of more than 10,000 sources the one that failed longest ago is forgotten.
    """

    def __init__(
        self, per_minute: int = DEFAULT_FAILURES_PER_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_each = 60 / per_minute
        self._burst_seconds = 60 - self._seconds_each
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._limited: set[str] = set()

    def failure(self, source: str) -> ApiKeyInvalid | AuthenticationRateLimited:
        """Count a failed attempt; returns what to answer it with: the latter when the bucket is empty.

        It says so when that is the first time since the bucket was full.
        """
        now = self._clock()
        refusal = self._refusal(source, now)
        full_at = max(self._full_at.pop(source, now), now)
        if full_at == now:
            self._limited.discard(source)
        self._full_at[source] = full_at if refusal is not None else full_at + self._seconds_each
        if len(self._full_at) > SOURCES:
            self._limited.discard(self._full_at.popitem(last=False)[0])
        if refusal is None:
            return ApiKeyInvalid()
        refusal.first = source not in self._limited
        self._limited.add(source)
        return refusal

    def refusal(self, source: str) -> AuthenticationRateLimited | None:
        """What a failure would be answered with because the bucket is empty, None if it is not. Counts nothing."""
        return self._refusal(source, self._clock())

    def _refusal(self, source: str, now: float) -> AuthenticationRateLimited | None:
        wait = self._full_at.get(source, now) - self._burst_seconds - now - _ROUNDING
        return AuthenticationRateLimited(math.ceil(wait)) if wait > 0 else None
