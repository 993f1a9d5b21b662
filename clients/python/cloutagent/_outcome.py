"""How an execution ended, as a result or an error."""

from __future__ import annotations

from typing import Final

from cloutagent.errors import (
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionTimedOutError,
    LimitExceededError,
)
from cloutagent.v1.cost_pb2 import BudgetExceeded, LimitCheckResult
from cloutagent.v1.execution_pb2 import Execution, Failure

_OPEN: Final = frozenset({Execution.Status.queued, Execution.Status.running})


def has_ended(execution: Execution) -> bool:
    """Whether nothing more happens to it. A state that only a newer version of the API knows counts as an end."""
    return execution.status not in _OPEN


def completed(execution: Execution) -> Execution:
    """The same execution, if it was completed. Raises ExecutionFailedError or ExecutionCancelledError otherwise."""
    if execution.status == Execution.Status.completed:
        return execution
    if execution.status == Execution.Status.cancelled:
        raise ExecutionCancelledError("the execution was cancelled", execution=execution)
    raise _failed(execution)


def _failed(execution: Execution) -> ExecutionFailedError:
    failure = execution.failure
    message = failure.message or "the execution ended without success"
    reason = _name(Failure.Reason, failure.reason)
    if failure.reason == Failure.Reason.timeout:
        return ExecutionTimedOutError(message, execution=execution, failure_reason=reason)
    if failure.reason != Failure.Reason.limit_exceeded:
        return ExecutionFailedError(message, execution=execution, failure_reason=reason)
    error = LimitExceededError(message, execution=execution, failure_reason=reason)
    budget = failure.budget
    error.exceeded = _name(LimitCheckResult.Exceeded, failure.exceeded)
    if failure.HasField("budget"):
        error.scope = _name(BudgetExceeded.Scope, budget.scope)
        error.limit, error.used, error.left = budget.limit, budget.used, budget.left
    return error


def _name(enum: object, number: int) -> str:
    """The name of an enum's value; its number if only a newer version of the API knows it."""
    try:
        return str(enum.Name(number))  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
