"""When a call is made again, and after how long a pause. Nothing here waits or calls: clock and chance are given."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloutagent.errors import ApiError, DeadlineExceededError

# Codes of failures that the network, gRPC or a proxy tells, which say nothing of the request itself. UNKNOWN is none of
# them: it is what gRPC makes of a proxy's answer of HTTP that it has no code for, such as a request that is too large.
_OF_THE_WAY: Final = frozenset({"UNAVAILABLE", "CANCELLED", "INTERNAL"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    A pause doubles with each failure in a row, up to `longest_delay`, and a random half of it is left out, so that many
    clients do not come back at the same moment. A pause that the server asks for is kept, and up to a quarter longer.

    Attributes:
        attempts: How often a call is made at most, and how often a watch tries until it has its first answer. 1: no
            call is made again.
        first_delay: Seconds of the first pause.
        longest_delay: Seconds that no pause of the client's own choice is longer than.
        outage: For how many seconds a watch that was connected tries to come back.
    """

    attempts: int = 6
    first_delay: float = 0.1
    longest_delay: float = 5.0
    outage: float = 300.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.first_delay <= self.longest_delay or self.outage < 0:
            raise ValueError("a retry policy needs attempts >= 1, 0 < first_delay <= longest_delay and outage >= 0")

    def pause(self, failures: int, retry_delay: float | None, draw: float) -> float:
        """Seconds to wait after so many failures in a row. `draw` is by chance, from 0 to 1."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** min(failures - 1, 60))
        own = longest * (1 + draw) / 2
        return own if retry_delay is None else max(own, retry_delay * (1 + draw / 4))


def passes_by(failure: ApiError) -> bool:
    """Whether the same request may succeed in a while.

    What the server itself answered does if it says when; what came of the way to it does by its code.
    """
    if failure.reason is not None:
        return failure.retry_delay is not None
    return failure.code in _OF_THE_WAY


class Attempts:
    """One unary call: its deadline, which holds for all attempts and pauses together, and its failures."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float,
        *,
        repeatable: bool,
        patient: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`repeatable`: making the call twice does no more than making it once; `patient`: it is made on and on."""
        self._policy = policy
        self._repeatable = repeatable
        self._most = math.inf if patient else policy.attempts
        self._clock = clock
        self._draw = draw
        self._end = clock() + timeout
        self._failures = 0

    def timeout(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._end - self._clock())

    def pause(self, failure: ApiError) -> float:
        """Seconds to wait before the next attempt. Raises the failure if there shall be none."""
        self._failures += 1
        if not self._repeatable or not passes_by(failure) or self._failures >= self._most:
            raise failure
        pause = self._policy.pause(self._failures, failure.retry_delay, self._draw())
        if pause >= self.timeout():
            raise failure
        return pause


class Reconnects:
    """One watch: its deadline, if it has one, and its failures since the last answer."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float | None,
        *,
        patient: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`patient`: the server is known to be there, as if it had answered."""
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._end = None if timeout is None else clock() + timeout
        self._failures = 0
        self._answers = 0
        self._last_answer = clock() if patient else None

    def answered(self, *, new: bool = True) -> None:
        """An answer came, be it a sign of life: nothing `new`.

        Pauses begin small again with what is new, or with the second answer of a connection: a server that gives signs
        of life and fails each time is not asked over and over at once.
        """
        self._answers += 1
        self._last_answer = self._clock()
        if new or self._answers > 1:
            self._failures = 0

    def timeout(self) -> float | None:
        """Seconds that are left; None without a deadline."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def pause(self, failure: ApiError) -> float:
        """Seconds to wait before connecting again. Raises the failure, or that the time is up, if that shall not be."""
        left = self.timeout()
        if left == 0:
            raise self._too_late(failure)
        # A deadline that is not ours is one of the way.
        if not passes_by(failure) and not isinstance(failure, DeadlineExceededError):
            raise failure
        self._failures += 1
        self._answers = 0
        pause = self._policy.pause(self._failures, failure.retry_delay, self._draw())
        if self._last_answer is None:
            if self._failures >= self._policy.attempts:
                raise failure
        else:
            outage_left = self._last_answer + self._policy.outage - self._clock()
            if outage_left < 0:
                raise failure
            # Whatever the server asks for, the last attempt is made when the outage has taken long enough.
            pause = min(pause, max(outage_left, self._policy.first_delay))
        if left is not None and pause >= left:
            raise self._too_late(failure)
        return pause

    @staticmethod
    def _too_late(failure: ApiError) -> DeadlineExceededError:
        if isinstance(failure, DeadlineExceededError):
            return failure
        message = f"it did not end in time; before that: {failure.message}"
        return DeadlineExceededError(message, code="DEADLINE_EXCEEDED", request_id=failure.request_id)
