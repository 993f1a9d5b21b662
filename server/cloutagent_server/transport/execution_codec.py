"""Executions and requests for them between protobuf and domain."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cloutagent.v1 import execution_pb2
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Status
from cloutagent_server.service.executions import ExecutionRequest
from cloutagent_server.transport.cost_codec import EXCEEDED, budget_to_proto, usage_to_proto
from cloutagent_server.transport.project_codec import agent_to_proto, limits_to_proto, timestamp

RunRequest = (
    execution_pb2.ExecuteRequest
    | execution_pb2.StartExecutionRequest
    | execution_pb2.ExecuteStreamRequest
    | execution_pb2.ExecuteEventStreamRequest
)

_Status = execution_pb2.Execution.Status
_STATUS: Final = {
    Status.QUEUED: _Status.queued,
    Status.RUNNING: _Status.running,
    Status.COMPLETED: _Status.completed,
    Status.FAILED: _Status.failed,
    Status.CANCELLED: _Status.cancelled,
}
_Reason = execution_pb2.Failure.Reason
_REASON: Final = {
    FailureReason.LIMIT_EXCEEDED: _Reason.limit_exceeded,
    FailureReason.TIMEOUT: _Reason.timeout,
    FailureReason.MODEL_ERROR: _Reason.model_error,
    FailureReason.AGENT_ERROR: _Reason.agent_error,
    FailureReason.INTERRUPTED: _Reason.interrupted,
}


def request_from_proto(request: RunRequest) -> ExecutionRequest:
    """What a caller asks to run."""
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
        idempotency_key=request.idempotency_key if request.HasField("idempotency_key") else None,
    )


def to_proto(execution: Execution) -> execution_pb2.Execution:
    """The protobuf form of an execution."""
    return execution_pb2.Execution(
        id=execution.id,
        project_id=execution.project_id,
        status=_STATUS[execution.status],
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
    )


def to_result(execution: Execution) -> execution_pb2.ExecutionResult:
    """How an execution ended, in short."""
    return execution_pb2.ExecutionResult(
        id=execution.id,
        status=_STATUS[execution.status],
        result=execution.result,
        cost=execution_pb2.ExecutionCost(
            prompt_tokens=execution.usage.prompt_tokens,
            completion_tokens=execution.usage.completion_tokens,
            total_cost=float(execution.usage.total_cost),
        ),
        duration=execution.duration or 0,
        error=None if execution.failure is None else execution.failure.message,
    )


def failure_to_proto(failure: Failure) -> execution_pb2.Failure:
    """The protobuf form of a failure."""
    return execution_pb2.Failure(
        reason=_REASON[failure.reason],
        message=failure.message,
        exceeded=None if failure.exceeded is None else EXCEEDED[failure.exceeded],
        budget=None if failure.budget is None else budget_to_proto(failure.budget),
    )
