"""What a client raises.

Everything is a CloutAgentError. What a call is answered with is an ApiError, of the class that its status code and
reason stand for; how an execution ended is an ExecutionFailedError or ExecutionCancelledError; what the caller got
wrong before anything was sent is a ConfigurationError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloutagent.v1.execution_pb2 import Execution


class CloutAgentError(Exception):
    """The base of all errors of this package.

    Attributes:
        message: What is wrong, for people.
        execution_id: The execution that the error is about, where there is one: `executions.watch` follows it on.
    """

    def __init__(self, message: str, *, execution_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.execution_id = execution_id

    def __str__(self) -> str:
        return self.message


class ConfigurationError(CloutAgentError, ValueError):
    """The client cannot do this as it was made: a malformed address, a key or a secret in plain text, no project."""


class NoProjectError(ConfigurationError):
    """The call is about a project and names none, and the key belongs to none: it is the admin's."""


class ApiError(CloutAgentError):
    """A call failed.

    Attributes:
        code: Name of the gRPC status code, such as `NOT_FOUND`.
        reason: Name of the ErrorReason; None if it was not the server that answered, but the network or a proxy.
        metadata: What the reason names, such as `project_id`.
        request_id: The id of the call, which the server's log has too.
        retry_delay: In how many seconds the server says that it may be tried again; None if it does not say.
        idempotency_key: What the start that failed was sent with, the client's own key too: a start that is repeated
            with it is no second run. None of other calls.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        retry_delay: float | None = None,
    ) -> None:
        self.metadata = dict(metadata or {})
        super().__init__(message, execution_id=self.metadata.get("execution_id"))
        self.code = code
        self.reason = reason
        self.request_id = request_id
        self.retry_delay = retry_delay
        self.idempotency_key: str | None = None

    def __str__(self) -> str:
        kind = self.code if self.reason is None else f"{self.code}, {self.reason}"
        request = "" if self.request_id is None else f", request {self.request_id}"
        return f"{self.message} ({kind}{request})"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a request that is wrong.

    Attributes:
        field: Its path in the JSON of the API, such as `agent.maxTokens`; empty for the whole request.
        description: What is wrong with it, for people.
    """

    field: str
    description: str


class InvalidArgumentError(ApiError):
    """The request breaks a rule.

    Attributes:
        violations: The faulty fields, at most ten; empty if the request could not be read.
    """

    violations: Sequence[Violation] = ()


class AuthenticationError(ApiError):
    """There is no API key, or it is not valid."""


class PermissionDeniedError(ApiError):
    """The key may not do this."""


class NotFoundError(ApiError):
    """There is no such project, execution, secret, version or API key."""


class AlreadyExistsError(ApiError):
    """The idempotency key was used for another request; `execution_id` is what that one started."""


class ConflictError(ApiError):
    """Somebody else changed it at the same time, or a secret is not at the version that was expected."""


class FailedPreconditionError(ApiError):
    """The state does not allow it: an execution that has not ended, the last API key."""


class OutOfRangeError(ApiError):
    """The cursor lies outside the events that exist: they were trimmed, or it is behind the last one."""

    @property
    def first_sequence(self) -> int | None:
        """Number of the first event that can still be read."""
        return _whole(self.metadata.get("first_sequence"))

    @property
    def last_sequence(self) -> int | None:
        """Number of the last event."""
        return _whole(self.metadata.get("last_sequence"))


class ResourceExhaustedError(ApiError):
    """There is no room, or a message is too large."""


class QueueFullError(ResourceExhaustedError):
    """The queue of the server or of the project is full."""


class RateLimitedError(ResourceExhaustedError):
    """Too many calls, or too many wrong keys, came from here; `retry_delay` tells when to come again."""


class UnavailableError(ApiError):
    """The server cannot be reached, is stopping, or its storage takes no writes now."""


class DeadlineExceededError(ApiError, TimeoutError):
    """There was no answer in time. What the call asked for may have happened all the same."""


class CallCancelledError(ApiError):
    """The call was ended from the other side."""


class DataLossError(ApiError):
    """What is stored is damaged."""


class UnimplementedError(ApiError):
    """The server does not know this call: it is older than the client."""


class InternalError(ApiError):
    """A fault of the server, or an answer that makes no sense."""


class BudgetExceededError(CloutAgentError):
    """A limit on tokens or cost left no room: for a start (BudgetUsedUpError) or in a run (LimitExceededError).

    Attributes:
        scope: What the limit holds for: `execution`, `daily`, `monthly` or `total`.
        exceeded: What it limits: `tokens` or `cost`.
        limit: The limit, in tokens or US dollars.
        used: What was used of it.
        left: What was left of it.
    """

    scope: str | None = None
    exceeded: str | None = None
    limit: float | None = None
    used: float | None = None
    left: float | None = None


class BudgetUsedUpError(BudgetExceededError, FailedPreconditionError):
    """Nothing is left of a budget of the project, so nothing was started."""


class ExecutionFailedError(CloutAgentError):
    """An execution ended without success.

    Attributes:
        execution: The execution as it ended, with its usage.
        failure_reason: Name of the Failure.Reason, such as `model_error`.
    """

    def __init__(
        self, message: str, *, execution: Execution | None = None, failure_reason: str = "unspecified"
    ) -> None:
        super().__init__(message, execution_id=None if execution is None else execution.id)
        self.execution = execution
        self.failure_reason = failure_reason


class LimitExceededError(BudgetExceededError, ExecutionFailedError):
    """A limit on tokens or cost ended the execution."""


class ExecutionTimedOutError(ExecutionFailedError):
    """The execution took longer than it may."""


class ExecutionCancelledError(CloutAgentError):
    """An execution was cancelled.

    Attributes:
        execution: The execution as it ended, with its usage.
    """

    def __init__(self, message: str, *, execution: Execution | None = None) -> None:
        super().__init__(message, execution_id=None if execution is None else execution.id)
        self.execution = execution


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
