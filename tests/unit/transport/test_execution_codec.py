"""Executions, their cost and requests for them between protobuf and domain."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import json_format

from cloutagent.v1 import cost_pb2, execution_pb2
from cloutagent_server.domain.cost import CostLimits, ExceededLimit, LimitCheckResult
from cloutagent_server.domain.events import FailureReason, Payload
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Status
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.transport.cost_codec import check_to_proto, limits_from_proto, model_to_proto, usage_to_proto
from cloutagent_server.transport.execution_codec import failure_to_proto, request_from_proto, to_proto, to_result
from tests.support import builders

REQUESTS = (
    execution_pb2.ExecuteRequest,
    execution_pb2.StartExecutionRequest,
    execution_pb2.ExecuteStreamRequest,
    execution_pb2.ExecuteEventStreamRequest,
)


def in_state(*payloads: Payload) -> Execution:
    execution = builders.execution()
    for event in builders.events(execution.id, payloads):
        execution = execution.after(event)
    return execution


def document(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message)


STATES = {
    Status.QUEUED: in_state(builders.queued(2)),
    Status.RUNNING: in_state(builders.queued(), builders.started(), builders.token_used()),
    Status.COMPLETED: in_state(builders.queued(), builders.started(), builders.completed()),
    Status.FAILED: in_state(builders.queued(), builders.started(), builders.failed()),
    Status.CANCELLED: in_state(builders.queued(), builders.cancelled(duration=0)),
}
ALWAYS = {"id", "projectId", "status", "prompt", "agent", "limits", "usage", "createdAt", "lastSequence"}
PRESENT = {
    Status.QUEUED: {"queuePosition"},
    Status.RUNNING: {"startedAt"},
    Status.COMPLETED: {"startedAt", "finishedAt", "duration", "result"},
    Status.FAILED: {"startedAt", "finishedAt", "duration", "failure"},
    Status.CANCELLED: {"finishedAt", "duration"},
}


@pytest.mark.parametrize("status", Status)
def test_an_execution_shows_what_its_status_has(status: Status) -> None:
    execution = STATES[status]
    shown = document(to_proto(execution))
    assert shown["status"] == status.value
    assert shown.keys() == ALWAYS | PRESENT[status]
    assert shown["prompt"] == execution.prompt
    assert shown["lastSequence"] == execution.last_sequence
    assert "variables" not in shown and "idempotency" not in shown


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_result_is_the_contracts(status: Status) -> None:
    execution = STATES[status]
    shown = document(to_result(execution))
    assert shown["status"] == status.value
    assert shown["cost"] == {"promptTokens": 120, "completionTokens": 40, "totalCost": 0.00096}
    assert shown.get("duration", 0) == execution.duration
    assert shown.get("result") == ("All good." if status is Status.COMPLETED else None)
    assert shown.get("error") == ("the token limit was passed" if status is Status.FAILED else None)


@pytest.mark.parametrize("reason", FailureReason)
@pytest.mark.parametrize("exceeded", [None, *ExceededLimit])
def test_a_failure_keeps_its_words(reason: FailureReason, exceeded: ExceededLimit | None) -> None:
    shown = document(failure_to_proto(builders.failure(reason=reason, exceeded=exceeded)))
    assert shown["reason"] == reason.value
    assert shown.get("exceeded") == (None if exceeded is None else exceeded.value)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_without_options_asks_for_the_projects_limits(kind: Any) -> None:
    assert request_from_proto(kind(project_id="p", prompt="hi"), None) == ExecutionRequest(
        "p", "hi", ExecutionOptions()
    )


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_with_everything(kind: Any) -> None:
    options = execution_pb2.ExecutionOptions(max_tokens=7, max_cost=0.1, timeout=1000, variables={"a": "b"})
    request = kind(project_id="p", prompt="hi", options=options, labels={"team": "search"})
    assert request_from_proto(request, "k") == ExecutionRequest(
        "p", "hi", ExecutionOptions(7, Decimal("0.1"), 1000, {"a": "b"}), "k", {"team": "search"}
    )


def test_usage() -> None:
    assert document(usage_to_proto(builders.usage())) == {
        "promptTokens": 120,
        "completionTokens": 40,
        "cacheReadTokens": 15,
        "cacheWriteTokens": 5,
        "totalCost": 0.00096,
        "modelCalls": 2,
    }


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({}, CostLimits()),
        ({"max_tokens": 7}, CostLimits(7)),
        ({"max_cost": 0.1}, CostLimits(None, Decimal("0.1"))),
        ({"max_tokens": 7, "max_cost": 0.1}, CostLimits(7, Decimal("0.1"))),
    ],
)
def test_limits_to_check_against(fields: dict[str, Any], limits: CostLimits) -> None:
    assert limits_from_proto(cost_pb2.CostLimits(**fields)) == limits


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        (LimitCheckResult(True), {"withinLimits": True}),
        (LimitCheckResult(True, 0.0, 0.0), {"withinLimits": True, "percentOfTokenLimit": 0, "percentOfCostLimit": 0}),
        (
            LimitCheckResult(False, 250.0, None, ExceededLimit.TOKENS),
            {"percentOfTokenLimit": 250, "exceeded": "tokens"},
        ),
        (LimitCheckResult(False, None, 101.5, ExceededLimit.COST), {"percentOfCostLimit": 101.5, "exceeded": "cost"}),
    ],
)
def test_a_check_shows_what_was_checked(check: LimitCheckResult, shown: dict[str, Any]) -> None:
    assert document(check_to_proto(check)) == shown


def test_a_model_shows_its_prices() -> None:
    assert document(model_to_proto(builders.model())) == {
        "id": "claude-sonnet-4-5",
        "displayName": "Claude Sonnet 4.5",
        "promptTokenPrice": 3e-06,
        "completionTokenPrice": 1.5e-05,
        "cacheReadTokenPrice": 3e-07,
        "cacheWriteTokenPrice": 3.75e-06,
        "contextWindow": 200000,
    }
    without = replace(builders.model(), cache_read_token_price=None, cache_write_token_price=None, context_window=None)
    assert document(model_to_proto(without)).keys() == {
        "id",
        "displayName",
        "promptTokenPrice",
        "completionTokenPrice",
    }


def test_every_word_of_the_domain_has_one_in_the_api() -> None:
    """Enum values of the API are the domain's words, `unspecified` aside."""
    for words, enum in (
        (Status, execution_pb2.Execution.Status),
        (FailureReason, execution_pb2.Failure.Reason),
        (ExceededLimit, cost_pb2.LimitCheckResult.Exceeded),
    ):
        assert set(enum.keys()) == {word.value for word in words} | {"unspecified"}
