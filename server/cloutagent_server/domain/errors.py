"""Errors that a caller may see. Each class is one kind of fault; the transport's catalogue gives it status and reason.

The message of every error is public: it names what is wrong and holds no secret and no path of the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloutagent_server.domain.cost import BudgetExceeded


class CloutAgentError(Exception):
    """Base of all errors that are answers, not faults of the server.

    Attributes:
        message: What is wrong, for people.
        metadata: Machine-readable details, as documented with the reason in `error_reason.proto`.
    """

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request and what is wrong with it. `field` is a path in camelCase, such as `agent.maxTokens`."""

    field: str
    description: str


class InvalidRequest(CloutAgentError):
    """The request is faulty. `violations` names each field at fault."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """An error about one field."""
        return cls([FieldViolation(field, description)])


class Unauthenticated(CloutAgentError):
    """The caller has no valid API key."""


class ApiKeyMissing(Unauthenticated):
    """The call carries no API key."""

    def __init__(self) -> None:
        super().__init__("an API key is required: send it in the x-api-key header")


class ApiKeyInvalid(Unauthenticated):
    """The API key is malformed, unknown or no longer valid."""

    def __init__(self) -> None:
        super().__init__("the API key is not valid")


class AuthenticationRateLimited(CloutAgentError):
    """The API key is not valid, and too many that were not came from the caller's address.

    Attributes:
        retry_seconds: In how many seconds the next attempt may be made.
        first: Whether the address passes the limit with this attempt.
    """

    def __init__(self, retry_seconds: int, first: bool = False) -> None:
        super().__init__(f"too many attempts with keys that are not valid: try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds
        self.first = first


class AccessDenied(CloutAgentError):
    """The caller's key does not open this."""


class NotFound(CloutAgentError):
    """The record does not exist."""


class ProjectNotFound(NotFound):
    """There is no project with this id."""

    def __init__(self, project_id: str) -> None:
        super().__init__("the project does not exist", project_id=project_id)


class ExecutionNotFound(NotFound):
    """There is no execution with this id."""

    def __init__(self, execution_id: str) -> None:
        super().__init__("the execution does not exist", execution_id=execution_id)


class SecretNotFound(NotFound):
    """The project has no secret of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the project has no secret named {name}", name=name)


class ApiKeyNotFound(NotFound):
    """The project has no API key with this id, or it has expired."""

    def __init__(self, key_id: str) -> None:
        super().__init__("the project has no such API key", key_id=key_id)


class LastApiKey(CloutAgentError):
    """The project's last API key cannot be revoked with it."""

    def __init__(self, key_id: str) -> None:
        super().__init__("only the admin may revoke the last API key of a project", key_id=key_id)


class ApiKeyLimitReached(CloutAgentError):
    """The project has as many API keys as it may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a project has at most {limit} API keys: revoke one first", limit=str(limit))


class SecretLimitReached(CloutAgentError):
    """The project has as many secrets as it may have, or they would take more room than they may."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(f"the secrets of a project have at most {limit} {what}: delete one first", limit=str(limit))


class SecretVersionNotFound(NotFound):
    """The secret has no such version, or no longer."""

    def __init__(self, name: str, version: int) -> None:
        super().__init__(f"the secret {name} has no version {version}", name=name, version=str(version))


class SecretVersionConflict(CloutAgentError):
    """The secret is not at the version that the caller expects. `version` is the one it is at; 0 if there is none."""

    def __init__(self, name: str, version: int) -> None:
        state = f"is at version {version}" if version else "does not exist"
        super().__init__(f"the secret {name} {state}", name=name, version=str(version))


class RevisionConflict(CloutAgentError):
    """The record changed since the caller read it, or another writer came first."""


class IdempotencyKeyReused(CloutAgentError):
    """The idempotency key stands for another request already."""

    def __init__(self, execution_id: str) -> None:
        super().__init__("the idempotency key was used for another request", execution_id=execution_id)


class ExecutionNotFinished(CloutAgentError):
    """The execution is queued or running, so this cannot be done to it yet."""

    def __init__(self, execution_id: str) -> None:
        super().__init__("the execution has not ended: wait for its end or cancel it", execution_id=execution_id)


class QueueFull(CloutAgentError):
    """No more executions can wait. `scope` says where: in the `server`, or of the one `project`."""

    def __init__(self, limit: int, scope: str = "server") -> None:
        super().__init__(
            f"the queue of the {scope} is full: {limit} executions wait already", limit=str(limit), scope=scope
        )


class BudgetUsedUp(CloutAgentError):
    """Nothing is left of a budget of the project."""

    def __init__(self, budget: BudgetExceeded) -> None:
        super().__init__(
            f"nothing is left of {budget.name}: {budget.state}",
            scope=budget.scope.value,
            exceeded=budget.exceeded.value,
            limit=f"{budget.limit:f}",
            used=f"{budget.used:f}",
            left=f"{budget.left:f}",
        )


class CursorOutOfRange(CloutAgentError):
    """The cursor of a watch lies outside the events that exist."""

    def __init__(self, first_sequence: int, last_sequence: int) -> None:
        super().__init__(
            f"the cursor lies outside the stored events {first_sequence} to {last_sequence}",
            first_sequence=str(first_sequence),
            last_sequence=str(last_sequence),
        )
        self.first_sequence = first_sequence


class WatcherTooSlow(CloutAgentError):
    """A watcher took nothing for too long. `last_sequence` is the last event that was sent to it; 0 if none was."""

    def __init__(self, last_sequence: int) -> None:
        super().__init__(
            "the watcher does not read: go on after the last event that it got", last_sequence=str(last_sequence)
        )


class StoredDataDamaged(CloutAgentError):
    """A stored record cannot be read. `location` and `fault` are for the operator's log, not for the caller."""

    def __init__(self, location: str, fault: str) -> None:
        super().__init__("a stored record is damaged; the server's log names it")
        self.location = location
        self.fault = fault


class ServerUnavailable(CloutAgentError):
    """The server is stopping, or cannot take the request now. Trying again later may succeed."""


class StorageUnavailable(ServerUnavailable):
    """The storage refused a write (full disk, permissions). `cause` is for the operator's log."""

    def __init__(self, cause: str) -> None:
        super().__init__("the storage does not take writes now")
        self.cause = cause
