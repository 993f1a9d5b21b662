"""Attempts with keys that are not valid, counted by the address that they come from."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloutagent_server.domain.errors import ApiKeyInvalid, AuthenticationRateLimited

DEFAULT_FAILURES_PER_MINUTE: Final = 20
SOURCES: Final = 10_000


@dataclass(slots=True)
class _Bucket:
    """What a source has left, as of a time."""

    tokens: float
    time: float


class FailedAttempts:
    """A token bucket for each source: `per_minute` failures at once, and as many again spread over a minute.

    A valid key is never counted and passes from a source whose bucket is empty too: many callers may share an address,
    a look-up costs next to nothing, and no key is found by trying, for it has 122 random bits. Memory is bounded: of
    more than 10,000 sources the one that failed longest ago is forgotten.
    """

    def __init__(
        self, per_minute: int = DEFAULT_FAILURES_PER_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = per_minute
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def failure(self, source: str) -> ApiKeyInvalid | AuthenticationRateLimited:
        """Count a failed attempt; returns what to answer it with: the latter when the bucket is empty."""
        now = self._clock()
        bucket = self._buckets.pop(source, None) or _Bucket(self._capacity, now)
        bucket.tokens = min(self._capacity, bucket.tokens + (now - bucket.time) * self._per_second)
        bucket.time = now
        self._buckets[source] = bucket
        if len(self._buckets) > SOURCES:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return AuthenticationRateLimited(math.ceil((1 - bucket.tokens) / self._per_second))
        bucket.tokens -= 1
        return ApiKeyInvalid()
