"""Executions and requests for them between protobuf and domain."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1 import execution_pb2
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.domain.events import Failure, FailureReason, SdkCost
from cloutagent_server.domain.execution import Execution, ExecutionFilter, ExecutionOptions, Status
from cloutagent_server.service.requests import Estimate, ExecutionRequest
from cloutagent_server.transport.cost_codec import (
    EXCEEDED,
    budget_to_proto,
    check_to_proto,
    tokens_to_proto,
    usage_to_proto,
)
from cloutagent_server.transport.project_codec import agent_to_proto, limits_to_proto, timestamp

RunRequest = (
    execution_pb2.ExecuteRequest
    | execution_pb2.StartExecutionRequest
    | execution_pb2.ExecuteStreamRequest
    | execution_pb2.ExecuteEventStreamRequest
)
AttachedRequest = (
    execution_pb2.ExecuteRequest | execution_pb2.ExecuteStreamRequest | execution_pb2.ExecuteEventStreamRequest
)

_Status = execution_pb2.Execution.Status
STATUS: Final = {
    Status.QUEUED: _Status.queued,
    Status.RUNNING: _Status.running,
    Status.COMPLETED: _Status.completed,
    Status.FAILED: _Status.failed,
    Status.CANCELLED: _Status.cancelled,
}
_STATUS_FROM_PROTO: Final = {value: status for status, value in STATUS.items()}
_Reason = execution_pb2.Failure.Reason
_REASON: Final = {
    FailureReason.LIMIT_EXCEEDED: _Reason.limit_exceeded,
    FailureReason.TIMEOUT: _Reason.timeout,
    FailureReason.MODEL_ERROR: _Reason.model_error,
    FailureReason.AGENT_ERROR: _Reason.agent_error,
    FailureReason.INTERRUPTED: _Reason.interrupted,
}


def request_from_proto(request: RunRequest, idempotency_key: str | None) -> ExecutionRequest:
    """What a caller asks to run, with the key that the call has in its request or in its header."""
    options = request.options
    return ExecutionRequest(
        project_id=request.project_id,
        prompt=request.prompt,
        options=ExecutionOptions(
            max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
            max_cost=Decimal(str(options.max_cost)) if options.HasField("max_cost") else None,
            timeout=options.timeout if options.HasField("timeout") else None,
            variables=dict(options.variables),
        ),
        idempotency_key=idempotency_key,
        labels=dict(request.labels),
    )


def cancels_when_gone(request: AttachedRequest) -> bool:
    """Whether the run is to be cancelled when the caller goes away."""
    return request.on_disconnect == execution_pb2.ExecutionOptions.OnDisconnect.cancel


def filter_from_proto(request: execution_pb2.ListExecutionsRequest) -> ExecutionFilter:
    """Which executions a caller wants to see."""
    pairs = (label.partition("=") for label in request.labels)
    return ExecutionFilter(
        statuses=frozenset(_STATUS_FROM_PROTO[status] for status in request.statuses),
        labels=frozenset((name, value) for name, _, value in pairs),
        created_after=_time(request.created_after, "createdAfter") if request.HasField("created_after") else None,
        created_before=_time(request.created_before, "createdBefore") if request.HasField("created_before") else None,
    )


def estimate_to_proto(estimate: Estimate) -> execution_pb2.ExecutionEstimate:
    """The protobuf form of an estimate."""
    return execution_pb2.ExecutionEstimate(
        model=estimate.model,
        limits=limits_to_proto(estimate.limits),
        prompt_tokens=estimate.usage.prompt_tokens,
        completion_tokens=estimate.usage.completion_tokens,
        estimated_cost=float(estimate.usage.total_cost),
        limit_check=check_to_proto(estimate.check),
        secret_names=estimate.secret_names,
    )


def to_proto(execution: Execution) -> execution_pb2.Execution:
    """The protobuf form of an execution."""
    return execution_pb2.Execution(
        id=execution.id,
        project_id=execution.project_id,
        status=STATUS[execution.status],
        prompt=execution.prompt,
        agent=agent_to_proto(execution.agent),
        limits=limits_to_proto(execution.limits),
        usage=usage_to_proto(execution.usage),
        result=execution.result,
        failure=None if execution.failure is None else failure_to_proto(execution.failure),
        created_at=timestamp(execution.created_at),
        started_at=None if execution.started_at is None else timestamp(execution.started_at),
        finished_at=None if execution.finished_at is None else timestamp(execution.finished_at),
        duration=execution.duration,
        queue_position=execution.queue_position,
        last_sequence=execution.last_sequence,
        labels=execution.labels,
        secret_names=execution.secret_names,
        result_truncated=True if execution.result_truncated else None,
    )


def to_result(execution: Execution) -> execution_pb2.ExecutionResult:
    """How an execution ended, in short."""
    return execution_pb2.ExecutionResult(
        id=execution.id,
        status=STATUS[execution.status],
        result=execution.result,
        cost=execution_pb2.ExecutionCost(
            prompt_tokens=tokens_to_proto(execution.usage.prompt_tokens),
            completion_tokens=tokens_to_proto(execution.usage.completion_tokens),
            total_cost=float(execution.usage.total_cost),
        ),
        duration=execution.duration or 0,
        error=None if execution.failure is None else execution.failure.message,
        result_truncated=True if execution.result_truncated else None,
    )


def failure_to_proto(failure: Failure) -> execution_pb2.Failure:
    """The protobuf form of a failure."""
    return execution_pb2.Failure(
        reason=_REASON[failure.reason],
        message=failure.message,
        exceeded=None if failure.exceeded is None else EXCEEDED[failure.exceeded],
        budget=None if failure.budget is None else budget_to_proto(failure.budget),
    )


def _time(time: Timestamp, field: str) -> datetime:
    """A time of a request, cut to microseconds. Raises InvalidRequest for one that no calendar has."""
    try:
        return time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest.of(field, "is not a time") from None


def sdk_cost_to_proto(said: SdkCost | None) -> execution_pb2.SdkCost | None:
    """The protobuf form of the agent SDK's figure."""
    return None if said is None else execution_pb2.SdkCost(cost=float(said.cost), differs=said.differs)
