"""What the parts of the server tell about their work, for whoever counts it."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Final

from cloutagent_server.domain.cost import BudgetScope, ExceededLimit, TokenUsage
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.domain.execution import Status


class CallOutcome(StrEnum):
    """How a model call of an agent ended."""

    OK = "ok"
    REFUSED = "refused"
    """It did not go out: no limit or budget allowed it, or its run was being stopped."""
    VENDOR_ERROR = "vendor_error"
    """The vendor answered with an error, also in the middle of its answer."""
    UNREACHABLE = "unreachable"
    """There was no connection to the vendor, or it broke before the answer."""
    TIMEOUT = "timeout"
    """The vendor sent nothing for too long, before its answer or in it."""
    BROKEN = "broken"
    """The answer broke off, or was longer than any that the API gives."""
    CUT = "cut"
    """The agent or the end of its run cut it."""


class StorageFault(StrEnum):
    """Why an operation of the storage failed, where that says something about the storage."""

    UNAVAILABLE = "unavailable"
    DAMAGED = "damaged"
    UNEXPECTED = "unexpected"


class Metrics:
    """Is told what happens, and keeps nothing. Whoever counts overrides what it counts.

    All methods are called in the event loop. They take microseconds and raise nothing. Streams and watches are told of
    when they begin and end, never of each message. Times are in seconds.
    """

    def call_started(self, method: str, *, stream: bool) -> None:
        """A call of `method` (`/package.Service/Method`) begins; `stream` tells whether it answers with a stream."""

    def call_ended(self, method: str, code: str, seconds: float, *, stream: bool) -> None:
        """A call that had begun has ended with this status code (`OK`, `NOT_FOUND`)."""

    def watch_started(self) -> None:
        """Somebody follows the log of an execution."""

    def watch_ended(self) -> None:
        """Somebody does so no more."""

    def execution_dequeued(self, waited: float) -> None:
        """An execution's turn has come, after it waited for so long."""

    def execution_ended(self, status: Status, reason: FailureReason | None) -> None:
        """An execution has ended; `reason` tells why one failed."""

    def budget_refused(self, scope: BudgetScope, limit: ExceededLimit) -> None:
        """A limit of a run or a budget of its project left no room for a model call or a new execution."""

    def model_call_ended(self, model: str, outcome: CallOutcome, first_byte: float | None) -> None:
        """A model call of an agent has ended. `first_byte`: until the vendor began to answer; None if it did not."""

    def call_settled(self, usage: TokenUsage, cost: Decimal) -> None:
        """The ledger has what a model call used, and cost in US dollars, in the place of its reservation."""

    def storage_used(self, operation: str, seconds: float, fault: StorageFault | None) -> None:
        """An operation of the storage (`executions.append`) has ended."""

    def key_hashed(self, seconds: float) -> None:
        """A key was checked with bcrypt, which took so long with the wait for a thread."""

    def key_remembered(self) -> None:
        """A key needed no check, since one had confirmed it a short time before."""


NO_METRICS: Final = Metrics()
