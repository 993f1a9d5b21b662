"""The JSON form of what events have made of an execution: state.json, and part of the first line of a trimmed log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, ExceededLimit, Usage
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.storage.filesystem.schema import Fields, Schema

STATE: Final = Schema(1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What state.json holds: the execution after the first `log_size` bytes of its log."""

    log_size: int
    execution: Execution


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The document that holds a snapshot. What the execution was created with stays in the log alone."""
    execution = snapshot.execution
    return STATE.stamp({"executionId": execution.id, "logSize": snapshot.log_size, **outcome_to_json(execution)})


def snapshot_from_json(document: object, created: Execution) -> Snapshot:
    """The snapshot that a document holds of the execution `created`. Raises ValueError."""
    fields = STATE.open(document)
    if fields.identifier("executionId") != created.id:
        raise ValueError("executionId is another execution's")
    log_size = fields.whole("logSize", least=1)
    snapshot = Snapshot(log_size, outcome_from_fields(fields, created))
    fields.end()
    return snapshot


def outcome_to_json(execution: Execution) -> dict[str, Any]:
    """What the events of an execution have made of it."""
    optional = {
        "result": execution.result,
        "resultTruncated": True if execution.result_truncated else None,
        "failure": None if execution.failure is None else _failure_to_json(execution.failure),
        "startedAt": None if execution.started_at is None else timestamps.to_text(execution.started_at),
        "finishedAt": None if execution.finished_at is None else timestamps.to_text(execution.finished_at),
        "duration": execution.duration,
        "queuePosition": execution.queue_position,
    }
    return {
        "lastSequence": execution.last_sequence,
        "status": execution.status.value,
        "usage": event_json.usage_to_json(execution.usage),
        **{name: value for name, value in optional.items() if value is not None},
    }


def outcome_from_fields(fields: Fields, created: Execution) -> Execution:
    """The execution `created` after the events that a document tells the outcome of. Raises ValueError."""
    return replace(
        created,
        last_sequence=fields.whole("lastSequence"),
        status=Status(fields.text("status")),
        usage=_usage(fields.fields("usage")),
        result=fields.optional(fields.text, "result"),
        result_truncated=fields.optional(fields.truth, "resultTruncated") or False,
        failure=fields.optional(lambda name: _failure(fields.fields(name)), "failure"),
        started_at=fields.optional(fields.time, "startedAt"),
        finished_at=fields.optional(fields.time, "finishedAt"),
        duration=fields.optional(fields.whole, "duration"),
        queue_position=fields.optional(fields.whole, "queuePosition"),
    )


def _usage(fields: Fields) -> Usage:
    usage = Usage(
        prompt_tokens=fields.whole("promptTokens"),
        completion_tokens=fields.whole("completionTokens"),
        cache_read_tokens=fields.whole("cacheReadTokens"),
        cache_write_tokens=fields.whole("cacheWriteTokens"),
        total_cost=Decimal(str(fields.number("totalCost"))),
        model_calls=fields.whole("modelCalls"),
        estimated=fields.optional(fields.truth, "estimated") or False,
    )
    fields.end()
    return usage


def _failure_to_json(failure: Failure) -> dict[str, Any]:
    document: dict[str, Any] = {"reason": failure.reason.value, "message": failure.message}
    if failure.exceeded is not None:
        document["exceeded"] = failure.exceeded.value
    if failure.budget is not None:
        document["budget"] = event_json.budget_to_json(failure.budget)
    return document


def _failure(fields: Fields) -> Failure:
    exceeded = fields.optional(fields.text, "exceeded")
    failure = Failure(
        FailureReason(fields.text("reason")),
        fields.text("message"),
        None if exceeded is None else ExceededLimit(exceeded),
        fields.optional(lambda name: _budget_exceeded(fields.fields(name)), "budget"),
    )
    fields.end()
    return failure


def _budget_exceeded(fields: Fields) -> BudgetExceeded:
    exceeded = BudgetExceeded(
        BudgetScope(fields.text("scope")),
        ExceededLimit(fields.text("exceeded")),
        Decimal(str(fields.number("limit"))),
        Decimal(str(fields.number("used"))),
    )
    fields.number("left")
    fields.end()
    return exceeded
